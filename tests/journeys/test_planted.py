"""Values planted in columns, groups, tools and numbers: no file of a run or of its store holds one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import danlu

PHONE, WHO = "1392013", "欧阳锋铭"


def test_no_file_of_a_run_or_store_holds_what_was_planted(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every column that is no question and no answer was stored raw, under `masked`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    head = f"question,answer,客户姓名,手机,id,source,group,{PHONE}9999\n"
    lines = [
        f"第{n}项怎么办？,按第{n}条办。,{WHO},{PHONE}{n:04d},{PHONE}1{n:03d},{PHONE}2{n:03d},{PHONE}3{n % 3:03d},x"
        for n in range(30)
    ]
    (tmp_path / "src" / "a.csv").write_text(head + "\n".join(lines), "utf-8")
    schema = {
        "type": "object",
        "properties": {f"{PHONE}4000": {"description": f"like {PHONE}4001", "enum": [f"{PHONE}4002"]}},
    }
    calls = [
        {"messages": [
            {"role": "user", "content": f"付款{n}"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": f"c{n}", "type": "function", "function": {
                "name": "pay", "arguments": {"phone": int(f"{PHONE}5{n:03d}"), f"{PHONE}6{n:03d}": "x"}}}]},
            {"role": "tool", "content": json.dumps({"tel": int(f"{PHONE}7{n:03d}")}), "tool_call_id": f"c{n}"},
            {"role": "assistant", "content": f"第{n}笔付了。"}],
         "tools": [{"type": "function", "function": {"name": "pay", "description": f"{PHONE}4003", "parameters": schema}}]}
        for n in range(30)
    ]  # fmt: skip
    (tmp_path / "src" / "b.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in calls), "utf-8")
    (tmp_path / "recipe.yaml").write_text(
        f"name: planted\nmodel: {{base: {base}, init: random}}\n"
        "data:\n  sources: [{path: src}]\n  duplicates: keep\n"
        f"  privacy: {{pack: medical, key_file: {tmp_path / 'safe' / 'k'}, levels: {{restricted: token, confidential: token}}}}\n"
        "method: {kind: sft}\ntraining: {max_steps: 1, context: 512}\n",
        "utf-8",
    )
    account = danlu("prepare", "recipe.yaml", "--json")
    assert account.code == 0, account
    looked = 0
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            content, looked = path.read_bytes(), looked + 1
            for value in (PHONE, WHO):
                forms = [value.encode(code) for code in ("utf-8", "utf-16-le", "utf-32-le")]
                forms.append(json.dumps(value)[1:-1].encode())
                assert not any(form in content for form in forms), (path, value)
    assert looked > 10
