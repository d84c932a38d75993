"""Identity: IR-SE50 against recorded numbers, the avatars' net, and files that are something else."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from fill import filled, picture, pictures

from stylograph.errors import DownloadError, StylographError, WeightsError
from stylograph.identity import Identity
from stylograph.nets.irse50 import IRSE50, face_crop
from stylograph.weights import REGISTRY


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        network = IRSE50()
    return filled(network.state_dict())


@pytest.fixture(scope="module")
def arcface_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("arcface") / "model_ir_se50.pth"
    torch.save(state, path)
    yield path
    path.unlink()  # 175 MB


@pytest.fixture(scope="module")
def arcface(arcface_file):
    return Identity.from_pretrained(arcface_file)


def test_the_fill_is_the_recorded_one(state, golden):
    recorded = golden("irse50_expected.npz")
    for i, key in enumerate(recorded["fill_check_keys"]):
        flat = state[str(key)].flatten()
        assert torch.allclose(flat[:8], recorded["fill_check_first8"][i], atol=1e-7)
        assert torch.allclose(flat[-8:], recorded["fill_check_last8"][i], atol=1e-7)


@pytest.mark.parametrize("side", [64, 256, 512])
def test_arcface_gives_the_recorded_embeddings(arcface, golden, side):
    recorded = golden("irse50_expected.npz")
    with torch.no_grad():
        found = arcface.embed(pictures(side))
        assert found.dtype == torch.float32
        assert (found - recorded[f"embedding_{side}"]).abs().max() < 2e-6
        loss = 1 - arcface.similarity(found[:1], found[1:])
    if side == 256:
        assert float(loss) == pytest.approx(float(recorded["id_loss_0_vs_1"]), abs=2e-6)
        assert float(loss) == pytest.approx(0.4580, abs=5e-5)
    assert (arcface.name, arcface.size) == ("model_ir_se50", 256)


def test_the_face_is_cut_as_recorded(golden):
    crop = face_crop(pictures(256))
    assert crop.shape == (2, 3, 112, 112)
    assert (crop.flatten()[::1009] - golden("irse50_expected.npz")["face_crop_112_probe"]).abs().max() < 1e-6


def test_arcface_has_a_gradient_inside_the_face_only(arcface):
    images = pictures(256)[:1].requires_grad_()
    arcface.embed(images)[:, :8].sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad[:, :, 35:223, 32:220].abs().sum() > 0
    assert images.grad[:, :, :35].abs().sum() == 0
    assert images.grad[:, :, :, 220:].abs().sum() == 0
    assert all(p.grad is None and not p.requires_grad for p in arcface.network.parameters())


def test_another_network_is_refused(tmp_path):
    encoder = tmp_path / "encoder.pt"
    torch.save({"input_layer.0.weight": torch.zeros(64, 6, 3, 3), "extra": torch.zeros(1)}, encoder)
    with pytest.raises(WeightsError, match=r"encoder\.pt: got \d+ tensors that do not fit.*expected a face recogniser"):
        Identity.from_pretrained(encoder)
    with pytest.raises(WeightsError, match="where no file is"):
        Identity.from_pretrained(tmp_path / "missing.pth")
    wanted = r"'ffhq-1024', a generator; expected a face recogniser \(avatars, arcface, or a file\); pass 'ffhq-1024' to --model"
    with pytest.raises(WeightsError, match=wanted):
        Identity.from_pretrained("ffhq-1024")
    with pytest.raises(WeightsError, match="got model 'arcfce'; expected one of: arcface, avatars"):
        Identity.from_pretrained("arcfce")


def test_arcface_by_name_is_downloaded_and_checked(arcface, arcface_file, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, local_files_only: str(arcface_file))
    with pytest.raises(DownloadError, match="expected 175367323; the file on the server has changed"):
        Identity.from_pretrained("arcface")
    digest = hashlib.sha256(arcface_file.read_bytes()).hexdigest()
    known = dataclasses.replace(REGISTRY["arcface"], size=arcface_file.stat().st_size, sha256=digest)
    monkeypatch.setattr("stylograph.weights.registry.REGISTRY", {"arcface": known})
    found = Identity.from_pretrained("arcface")
    assert torch.equal(found.embed(pictures(64)), arcface.embed(pictures(64)))


@pytest.fixture(scope="module")
def avatars():
    return Identity.from_pretrained("avatars")


def test_avatars_embeds_any_size_into_unit_vectors(avatars):
    for shape in ((2, 3, 64, 64), (1, 3, 200, 256), (1, 3, 32, 32)):
        found = avatars.embed(torch.zeros(shape))
        assert found.shape == (shape[0], 64)
        assert torch.allclose(found.norm(dim=1), torch.ones(shape[0]), atol=1e-5)
    assert (avatars.name, avatars.size) == ("avatars", 64)
    enlarged = pictures(64).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(avatars.similarity(pictures(64), enlarged), torch.ones(2), atol=1e-4)


def test_avatars_gradient_points_towards_the_person(avatars):
    mine, other = (picture(k, 64)[None] for k in (0, 1))
    image = other.clone().requires_grad_()
    before = avatars.similarity(image, mine)
    before.sum().backward()
    after = avatars.similarity(other + 1e-3 * image.grad / image.grad.abs().max(), mine)
    assert float(after) > float(before.detach()) + 1e-6


def test_shapes_are_checked(avatars):
    with pytest.raises(StylographError, match=r"got images of shape \[3, 64, 64\]; expected \[N, 3, H, W\]"):
        avatars.embed(torch.zeros(3, 64, 64))
    with pytest.raises(StylographError, match="got 2 pictures to compare with 3"):
        avatars.similarity(torch.zeros(2, 64), torch.zeros(3, 64))


def test_the_same_person_in_another_mood_is_nearer_than_another_person(avatars):
    pytest.importorskip("dicebear")
    from recipes.avatars.attributes import BACKGROUND, EYES, FACIAL_HAIR, HAIR_COLOUR, HAIR_STYLE, MOUTH, SKIN
    from recipes.avatars.render import draw_persona
    from recipes.avatars.train_features import to_tensor

    person = {
        "hair_style": HAIR_STYLE.index("long"), "hair_colour": HAIR_COLOUR.index("brown"), "skin": SKIN.index("tan"),
        "facial_hair": 0, "eyes": EYES.index("open"), "mouth": MOUTH.index("smile"), "nose": 0, "clothes": 0,
        "clothes_colour": 0, "background": 0,
    }  # fmt: skip
    changes = [
        {},
        {"mouth": MOUTH.index("frown"), "eyes": EYES.index("sunglasses"), "background": BACKGROUND.index("green")},
        {"hair_colour": HAIR_COLOUR.index("blue")},
        {
            "hair_style": HAIR_STYLE.index("mohawk"), "hair_colour": HAIR_COLOUR.index("red"),
            "skin": SKIN.index("dark"), "facial_hair": FACIAL_HAIR.index("beardMustache"),
        },
    ]  # fmt: skip
    drawn = to_tensor(np.stack([draw_persona(person | change) for change in changes]))
    same, mood, dyed, other = avatars.similarity(drawn, drawn[:1]).tolist()
    assert same == pytest.approx(1, abs=1e-5)
    assert same > mood > 0.85
    assert mood > dyed > other
    assert 0.5 < dyed < 0.95
    assert other < 0.4
