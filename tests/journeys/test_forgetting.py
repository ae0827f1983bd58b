"""A person asks to be forgotten: traced, trained without, proven; and the audit log that saw it all."""

import json
import random
import shutil
from pathlib import Path

import pytest
from command_line import danlu

WHO, PHONE = "张伟", "13812345678"


@pytest.fixture
def office(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows about people, a recipe and a key file elsewhere."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"套餐{n * 7}怎么办理？", "output": f"到第{n}营业厅办理套餐{n * 7}。"} for n in range(40)]
    rows.append({"instruction": f"联系人：{WHO}，电话{PHONE}，怎么退款？", "output": "退款原路返回。"})
    rows.append({"instruction": f"昨天{WHO}来过吗？", "output": "来过，问了保险条款。"})
    rows.append({"instruction": "李娜女士的手机是多少？", "output": "李娜女士手机 139 8765 4321。"})
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    (tmp_path / "recipe.yaml").write_text(
        f"name: office\nmodel: {{base: {base}, init: random}}\n"
        "data:\n  sources: [{path: qa.jsonl}]\n  duplicates: keep\n"
        f"  privacy: {{pack: minimal, key_file: {tmp_path / 'safe' / 'privacy.keys'}}}\n"
        "method: {kind: sft}\ntraining: {max_steps: 1, context: 256}\n",
        "utf-8",
    )
    return tmp_path


def runs_of(office: Path) -> list[Path]:
    return sorted(path.parent for path in (office / "runs").glob("*/run.json"))


def test_forgetting_from_trace_to_proof(office: Path) -> None:
    keys = ("--keys", office / "safe" / "privacy.keys")
    assert danlu("prepare", "recipe.yaml", "--json").code == 0
    (old,) = runs_of(office)

    plan = danlu("forget", WHO, PHONE, *keys, "--reason", "request 7", "--json").json
    (traced,) = plan["runs"]
    assert traced["run"] == old.name and {row["type"] for row in traced["samples"]} == {"name", "mobile"}
    assert any(place.startswith("row s_") for place in traced["left"]), "the row without a cue is found by its letters"
    assert [source.rpartition(":")[2] for source in plan["sources"]] == ["41", "42"]
    listed = Path(plan["list"]).read_text()
    told = listed + (office / "runs" / "audit.jsonl").read_text("utf-8") + json.dumps(plan, ensure_ascii=False)
    assert WHO not in told.replace(str(office), "") and PHONE not in told

    not_clean = danlu("forget", WHO, PHONE, *keys, "--verify", "--json")
    assert not_clean.code == 1 and not_clean.json["left"][old.name]

    (step,) = plan["steps"]
    assert step["command"].split()[:2] == ["danlu", "run"]
    account = danlu("prepare", *step["command"].split()[2:], "--json")
    assert account.code == 0
    (new,) = [run for run in runs_of(office) if run != old]
    reasons = [json.loads(line)["code"] for line in (new / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert reasons.count("privacy_forgotten") == 2

    one = danlu("forget", WHO, PHONE, *keys, "--verify", "--run", new, "--json")
    assert one.code == 0 and one.json["is_clean"], one.json
    assert one.json["searched"]["texts"] > 40 and one.json["searched"]["tokens"] > 100
    shutil.rmtree(old)
    everywhere = danlu("forget", WHO, "138 1234 5678", *keys, "--verify", "--json")
    assert everywhere.code == 0, everywhere.json
    assert danlu("forget", "-", *keys, "--verify", "--json", input=f"{WHO}\n\n{PHONE}\n").code == 0
    assert danlu("forget", "李娜", *keys, "--verify", "--json").code == 1, "others stay, and are found"


def test_a_store_that_was_removed_is_no_proof(office: Path) -> None:
    """With `.furnace` gone no row was searched, and the verdict was clean; prepare makes the rows anew."""
    keys = ("--keys", office / "safe" / "privacy.keys")
    account = danlu("prepare", "recipe.yaml", "data.engine=local", "--json").json
    (run,) = runs_of(office)
    assert danlu("forget", "王芳", *keys, "--verify", "--json").code == 0
    assert danlu("why", "qa.jsonl:3", "--json").code == 0
    shutil.rmtree(office / "runs" / ".furnace")
    blind = danlu("forget", "王芳", *keys, "--verify", "--json")
    assert blind.code == 1 and blind.json["rows_gone"] == [run.name] and not blind.json["left"]
    assert danlu("why", "qa.jsonl:3", "--json").json["error"] == "flow.rows_gone"
    again = danlu("prepare", "recipe.yaml", "data.engine=local", "--json").json
    assert runs_of(office) == [run] and again["dataset_id"] == account["dataset_id"]
    assert danlu("forget", "王芳", *keys, "--verify", "--json").code == 0
    assert danlu("why", "qa.jsonl:3", "--json").code == 0


@pytest.mark.parametrize("pack", ["finance", "medical"])
def test_no_file_of_a_run_holds_what_was_replaced(office: Path, pack: str) -> None:
    """Rows, reports, rejects, events, manifests, the store of shards: nothing the stage replaced, and no key."""
    rng = random.Random(3)
    rows = []
    for number in range(30):  # far enough apart to be no twins
        talk = "".join(chr(rng.randint(0x4E00, 0x8FFF)) for _ in range(60))
        rows.append(
            {
                "instruction": f"{talk}。联系人：{WHO}，电话{PHONE}，卡号6222021878017598986，第{number}次",
                "output": "邮箱zw@163.com",
            }
        )
    rows.append({"instruction": "api_key=q8Zk2LmN0pRs7TuVwXyZ", "output": "密码：Passw0rd!7"})
    (office / "qa.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    said = danlu(
        "prepare", "recipe.yaml", f"data.privacy.pack={pack}", "data.max_rejected=0.5", "data.engine=local", "--json"
    )
    assert said.code == 0, said.err
    keys = json.loads((office / "safe" / "privacy.keys").read_text())
    hidden = [
        WHO,
        PHONE,
        "6222021878017598986",
        "zw@163.com",
        "q8Zk2LmN0pRs7TuVwXyZ",
        "Passw0rd!7",
        keys["index"],
        keys["alias"],
    ]
    hidden += [held["secret"] for held in keys["keys"].values()]
    files = [path for path in (office / "runs").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        texts = (text, json.dumps(text, ensure_ascii=False), text.encode().decode("unicode_escape", "replace"))
        assert not [value for value in hidden for form in texts if value in form], path
    assert not [value for value in hidden if value in said.out + said.err]
    left = danlu("forget", PHONE, "--keys", office / "safe" / "privacy.keys", "--verify", "--json").json["left"]
    assert not [place for places in left.values() for place in places if not place.startswith("s_")], (
        "decoded tokens too"
    )


def test_the_log_is_anchored_and_keys_are_changed(office: Path) -> None:
    keys = ("--keys", office / "safe" / "privacy.keys")
    danlu("prepare", "recipe.yaml", "--json")
    head = danlu("audit", "head", "--anchor", "elsewhere/heads.jsonl", "--json").json
    assert head["n"] == 1
    rotated = danlu("audit", "rotate-key", *keys, "--reason", "每季度", "--json")
    assert rotated.code == 0 and sum(rotated.json["moved"].values()) > 0 and not rotated.json["lost"]
    destroyed = danlu("audit", "rotate-key", *keys, "--destroy", "--json")
    assert destroyed.code == 0 and len(destroyed.json["destroyed"]) == 2
    assert danlu("forget", WHO, *keys, "--json").json["runs"], "found under the newest key"
    shown = danlu("audit", "show", "--json").json
    assert [entry["action"] for entry in shown][:3] == ["prepare", "rotate-key", "rotate-key"]
    assert danlu("audit", "verify", "--anchor", "elsewhere/heads.jsonl").code == 0
    log = office / "runs" / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"prepare"', b'"prepaid"'))
    spoilt = danlu("audit", "verify", "--json")
    assert spoilt.code == 1 and spoilt.json["problems"]
    log.unlink()
    gone = danlu("audit", "verify", "--json")
    missing = {"line": 0, "what": "missing_log", "count": 1}
    assert gone.code == 1 and gone.json["problems"] == [missing], "a log that is gone is not whole"
    assert danlu("audit", "verify", "--anchor", "elsewhere/heads.jsonl", "--json").json["problems"] == [
        {"line": 0, "what": "cut_off", "n": 1},
        missing,
    ]


def test_findings_under_a_lost_key_are_counted_not_hidden(office: Path) -> None:
    safe = office / "safe" / "privacy.keys"
    danlu("prepare", "recipe.yaml", "--json")
    safe.rename(office / "safe" / "old")
    (other := office / "other.yaml").write_text(
        (office / "recipe.yaml").read_text("utf-8").replace("name: office", "name: other"), "utf-8"
    )
    danlu("prepare", other, "--json")  # makes a new key file
    rotated = danlu("audit", "rotate-key", "--keys", safe, "--json")
    assert rotated.code == 1 and sum(rotated.json["lost"].values()) > 0 and rotated.json["gone"]
    plan = danlu("forget", WHO, "--keys", safe, "--json").json
    assert any(run["unreadable"] and run["keys_gone"] for run in plan["runs"])
    assert not danlu("forget", "nobody", "--keys", safe, "--verify", "--json").json["is_clean"]


def test_keys_do_not_lie_among_the_runs(office: Path) -> None:
    danlu("prepare", "recipe.yaml", "--json")
    said = danlu("forget", WHO, "--keys", office / "runs" / "keys", "--json")
    assert said.code == 2 and said.json["error"] == "privacy.key_inside"
    assert (
        danlu("forget", " ", "--keys", office / "safe" / "privacy.keys", "--json").json["error"]
        == "audit.nothing_to_forget"
    )
