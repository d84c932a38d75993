"""The domain judge and what is counted with its features."""

import itertools

import numpy as np
import pytest
import torch

from stylograph.assets import ASSETS
from stylograph.domains import DomainJudge, Kid, diversity, kid, residue
from stylograph.errors import StylographError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.generator import Generator

FILE = ASSETS / "avatars" / "domains.safetensors"


@pytest.fixture(scope="module")
def judge():
    return DomainJudge.from_pretrained("avatars")


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kernel(x, y):
    return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3


def mmd2_by_hand(a, b):
    n = len(a)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += (kernel(a[i], a[j]) + kernel(b[i], b[j])) / (n * (n - 1))
            total -= 2 * kernel(a[i], b[j]) / n**2
    return total


def test_kid_is_the_unbiased_estimate():
    a, b = normal(7, 3, seed=0), normal(7, 3, seed=1) + 0.5
    found = kid(a, b, subsets=4, size=7)
    assert found.mean == pytest.approx(mmd2_by_hand(a, b), rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-12), "every subset is the whole set"


def test_kid_draws_subsets_by_seed():
    a, b = normal(3, 2, seed=0), normal(3, 2, seed=1)
    pairs = [
        mmd2_by_hand(a[list(i)], b[list(j)])
        for i in itertools.combinations(range(3), 2)
        for j in itertools.combinations(range(3), 2)
    ]
    single = [kid(a, b, subsets=1, size=2, seed=s).mean for s in range(20)]
    assert all(min(abs(value - pair) for pair in pairs) < 1e-9 for value in single)
    assert len({round(value, 9) for value in single}) > 1
    many = kid(a, b, subsets=2000, size=2)
    assert many.mean == pytest.approx(float(np.mean(pairs)), abs=0.1 * float(np.std(pairs)))
    assert many.std == pytest.approx(float(np.std(pairs)), rel=0.1)
    assert many == kid(a, b, subsets=2000, size=2)


def test_kid_of_equal_distributions_is_around_zero():
    same = [kid(normal(60, 8, seed=2 * s), normal(60, 8, seed=2 * s + 1), subsets=1, size=60).mean for s in range(60)]
    error = float(np.std(same)) / len(same) ** 0.5
    assert abs(float(np.mean(same))) < 3 * error
    assert min(same) < 0 < max(same)
    # The biased estimate, with i = j, would be off by far more than that error.
    assert 2 * float(np.mean([kernel(x, x) - 1 for x in normal(60, 8, seed=9)])) / 60 > 5 * error
    moved = kid(normal(60, 8, seed=0), normal(60, 8, seed=1) + 1, subsets=10, size=30)
    assert moved.mean > 10 * max(abs(value) for value in same)
    assert isinstance(moved, Kid)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ((50, 4), (300, 4), {}, "of 50 and 300 pictures; expected at least 200 of each; make more"),
        ((50, 4), (50, 5), {"size": 10}, "features of 4 and 5 numbers"),
        ((50, 4), (50, 4), {"size": 1}, "at least two pictures"),
        ((50, 4), (50, 4), {"size": 10, "subsets": 0}, "at least one"),
        ((50, 4, 1), (50, 4), {"size": 10}, r"expected \[N, D\]"),
    ],
)
def test_kid_refuses_what_it_cannot_compare(a, b, options, message):
    with pytest.raises(StylographError, match=message):
        kid(torch.zeros(a), torch.zeros(b), **options)


def test_features_that_are_not_numbers_are_refused():
    with pytest.raises(StylographError, match="not finite"):
        kid(torch.full((4, 2), float("nan")), torch.zeros(4, 2), size=2)
    with pytest.raises(StylographError, match="not finite"):
        diversity(torch.full((4, 2), float("inf")), clusters=2)


def test_diversity_is_the_mean_distance_within_clusters():
    groups = [torch.tensor([0.0, 1.0, 3.0]), torch.tensor([100.0, 104.0]), torch.tensor([-500.0])]
    features = torch.stack([torch.cat(groups), torch.zeros(6)], 1)[torch.tensor([3, 0, 5, 1, 4, 2])]
    # Pairs of the first: 1, 3, 2; of the second: 4; the third has one member and does not count.
    assert diversity(features, clusters=3) == pytest.approx((2 + 4) / 2)
    assert diversity(features, clusters=1) == pytest.approx(float(torch.pdist(features).mean()))


def test_diversity_finds_the_tightest_clusters():
    features = torch.cat([normal(20, 3, seed=i) * 0.1 + 10 * i for i in range(4)])
    within = [float(torch.pdist(features[20 * i : 20 * i + 20]).mean()) for i in range(4)]
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    for seed in range(5):
        assert diversity(features[order], clusters=4, seed=seed) == pytest.approx(sum(within) / 4, rel=1e-6)


def test_collapsed_pictures_have_no_diversity():
    assert diversity(normal(1, 16, seed=0).expand(40, 16)) == 0
    assert diversity(normal(5, 16, seed=0).repeat(20, 1)) == 0, "a few pictures again and again"
    half_way = normal(60, 16, seed=1)
    assert 0 < diversity(0.5 * half_way) < diversity(half_way)


def test_diversity_has_the_unit_of_the_features():
    features = normal(60, 16, seed=1)
    assert diversity(4 * features + 1) == pytest.approx(4 * diversity(features), rel=1e-5)
    assert diversity(features) == diversity(features)


@pytest.mark.parametrize("clusters", [0, 5, 6])
def test_diversity_needs_more_pictures_than_clusters(clusters):
    with pytest.raises(StylographError, match=f"got {clusters} clusters for 5 pictures"):
        diversity(torch.zeros(5, 2), clusters=clusters)


def test_residue_is_the_share_left_in_the_source():
    told = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]])
    assert residue(told, 0) == 0.5
    assert residue(told, "b", names=("a", "b", "c")) == 0.25
    with pytest.raises(StylographError, match="domain 'd'; expected one of: a, b, c"):
        residue(told, "d", names=("a", "b", "c"))
    for source in (-1, 3):
        with pytest.raises(StylographError, match="expected 0 to 2"):
            residue(told, source)
    with pytest.raises(StylographError, match=r"\[N, domains\]"):
        residue(told[0], 0)


def test_the_judge_knows_the_styles_of_the_recipe(judge):
    from recipes.avatars.styles import PERSONA_STYLE, STYLES

    assert judge.names == ("personas", *STYLES)
    assert judge.words == (PERSONA_STYLE[0], *(style.words[0] for style in STYLES.values()))
    assert judge.accuracy.keys() == {"clean", "blurred", "distorted"}
    assert FILE.stat().st_size < 1.6e6


def test_the_judge_tells_drawings_apart(judge):
    pytest.importorskip("dicebear")
    pytest.importorskip("resvg_py")
    from recipes.avatars.attributes import sample_labels
    from recipes.avatars.render import draw, draw_persona
    from recipes.avatars.train_features import to_tensor

    labels = sample_labels(30, seed=99)
    people = [draw_persona({n: int(v[i]) for n, v in labels.items()}) for i in range(30)]
    chosen = judge.names[1::4]
    grounds = ["#b6e3f4", "#f2c4d0", "#ffffff"]  # the first is close to one it was trained on
    others = [
        draw(name, {"seed": f"test-{i}", "backgroundColor": [ground]}, size=128)[0]
        for name in chosen
        for i, ground in enumerate(grounds)
    ]
    told = judge.probabilities(to_tensor(np.stack(people + others)))
    assert residue(told[:30], "personas", names=judge.names) > 0.95
    truth = torch.tensor([judge.names.index(name) for name in chosen]).repeat_interleave(len(grounds))
    assert float((told[30:].argmax(1) == truth).float().mean()) >= 0.9
    assert torch.allclose(told.sum(1), torch.ones(len(told)), atol=1e-5)


def test_features_follow_the_picture_and_not_its_style_only(judge):
    generator = Generator.from_pretrained("avatars")
    images = generator.render(generator.sample(24, seed=1))
    features = judge.features(images)
    assert features.dtype == torch.float32
    assert features.shape == (24, judge.network.config.hidden)
    larger = judge.features(images.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert torch.allclose(larger, features, atol=1e-4)
    alike = torch.lerp(images, images.mean(0, keepdim=True), 0.8)
    assert diversity(judge.features(alike), clusters=4) < 0.7 * diversity(features, clusters=4)
    head = judge.network.heads["style"](features.to(next(judge.network.parameters()).device))
    assert torch.allclose(head.softmax(1).cpu(), judge.probabilities(images), atol=1e-5)
    with pytest.raises(StylographError, match=r"expected \[N, 3, H, W\]"):
        judge.features(images[0])


def test_a_file_that_is_no_domain_judge_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="expected a stylograph domains file"):
        DomainJudge.from_pretrained(ASSETS / "avatars" / "judge.safetensors")
    tensors, record = load_tensors(FILE, "domains")
    path = tmp_path / "domains.safetensors"
    names = record["names"]
    for broken in (
        {"names": names[:-1]},
        {"names": [names[0], *names[:-1]]},
        {"words": ["robot"]},
        {"words": None},
        {"config": {"outputs": {"eyes": 3}}},
    ):
        save_tensors(path, tensors, "domains", record | broken)
        with pytest.raises(WeightsError, match=r"contradicts itself .*recipes\.avatars\.train_domains"):
            DomainJudge.from_pretrained(path)
    tensors.pop("stem.weight")
    save_tensors(path, tensors, "domains", record)
    with pytest.raises(WeightsError, match=r"contradicts itself .*stem\.weight"):
        DomainJudge.from_pretrained(path)
