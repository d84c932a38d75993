"""The promises of the package as a whole: layers, lazy imports, public names."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import stylograph

SOURCE = Path(stylograph.__file__).parent
LAYERS = [
    {"errors", "types", "files", "images", "losses", "templates", "resuming"},
    {"nets", "weights", "assets"},
    {"generator", "embed", "identity", "encoder", "align"},
    {"edit"},
    {"nada", "inversion"},
    {"render", "metrics", "domains"},
    {"jobs", "photos"},
    {"world"},
    {"making"},
    {"pipeline", "console", "benchmark"},
    {"cli", "web", "batch"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path):
    """(first part below `stylograph`, line) of every import in a file that runs, also those within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module] if node.module != "stylograph" else [f"stylograph.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "stylograph" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_from_layers_below(path):
    home = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if home == "__init__":
        return
    assert home in RANK, f"{home} has no layer yet: give it one in design.md and here"
    for used, line in imports(path):
        same_package = used == home
        below = RANK[used] < RANK[home] or (RANK[home] == RANK[used] == 0)
        assert same_package or below, f"{path.name}:{line} imports {used} from above"


def test_every_source_file_stays_readable():
    long = {str(p): n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 420}
    assert not long


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


HEAVY = ["torch", "transformers", "PIL", "numpy", "huggingface_hub", "rich.progress", "safetensors"]


@pytest.mark.parametrize(
    "action",
    ["import stylograph", "from stylograph.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(action):
    loaded = run(f"{action}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    assert loaded == []


def test_transformers_is_not_needed_to_sample():
    code = """
import sys, json
from stylograph.cli import main
import tempfile, pathlib
main(["sample", "--seed", "1", "-o", str(pathlib.Path(tempfile.mkdtemp()) / "x.png")])
print(json.dumps("transformers" in sys.modules))
"""
    assert run(code) is False


def test_every_public_name_exists():
    for name in stylograph.__all__:
        assert getattr(stylograph, name) is not None
    assert set(stylograph.__all__) <= set(dir(stylograph))
    with pytest.raises(AttributeError, match="no attribute"):
        stylograph.nothing_of_the_kind  # noqa: B018
