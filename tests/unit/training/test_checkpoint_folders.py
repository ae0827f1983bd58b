"""What lies on disk: whole folders only, the newest two and the best, and nothing that a killed process left behind."""

import pytest
import torch

from danlu.core.files import read_json
from danlu.training import checkpoint


def write(folder, number, best=None, value=0.0):
    tensors = {"weight/a": torch.full((3,), value), "exp_avg/a": torch.ones(3)}
    state = {"best": {"number": best, "loss": 1.0, "num_misses": 0} if best else None}

    def save_weights(place):
        place.mkdir()
        (place / "adapter_model.safetensors").write_bytes(b"weights %d" % number)

    place = checkpoint.write_checkpoint(folder, number, state, tensors, save_weights)
    checkpoint.prune(folder, best)
    return place


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    write(tmp_path, 4, value=0.1)
    found = checkpoint.read_newest(tmp_path, lambda *_: None)
    assert found.state["number"] == 4
    assert torch.equal(found.tensors["weight/a"], torch.full((3,), 0.1))


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.read_newest(tmp_path / "absent", lambda *_: None) is None
    assert checkpoint.find_last(tmp_path) is None
    assert checkpoint.find_best(tmp_path) is None


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    for number in range(1, 7):
        write(tmp_path, number, best=2 if number > 1 else None)
    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    assert checkpoint.find_best(tmp_path).name == "step-00000002"
    assert checkpoint.find_last(tmp_path).name == "step-00000006"
    assert names(tmp_path / "step-00000002") == ["state.json", "weights"], "an old best needs no optimizer"


def test_without_validation_the_best_is_the_last(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert checkpoint.find_best(tmp_path).name == "step-00000002"


@pytest.mark.parametrize("victim", ["state.safetensors", "state.json", "weights/adapter_model.safetensors"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_any_damage_is_noticed_and_set_aside(tmp_path, victim, how):
    write(tmp_path, 1, value=1.0)
    place = write(tmp_path, 2, value=2.0)
    path = place / victim
    content = path.read_bytes()
    if how == "flip":
        at = content.rindex(b"2") if victim == "state.json" else -3
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at:][1:])
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    said = []
    found = checkpoint.read_newest(tmp_path, lambda *note: said.append(note))
    assert found.state["number"] == 1
    assert said[0][0] == "step-00000002"
    assert names(tmp_path) == ["damaged-step-00000002", "step-00000001"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".step-00000002.abc.tmp").mkdir()
    (tmp_path / ".step-00000002.abc.tmp" / "state.safetensors").write_bytes(b"half")
    assert checkpoint.read_newest(tmp_path, lambda *_: None).state["number"] == 1
    assert names(tmp_path) == ["step-00000001"]


def test_every_file_has_its_digest(tmp_path):
    place = write(tmp_path, 1)
    digests = read_json(place / "state.json")["digests"]
    assert set(digests) == {"state.safetensors", "weights/adapter_model.safetensors"}
