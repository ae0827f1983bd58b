"""Files inside files: archives, letters and their attachments; bombs, passwords and broken members end by name."""

from __future__ import annotations

import email.message
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import DataError
from danlu.data import enclosed
from danlu.data.enclosed import safe_name
from danlu.data.extracted import text_of_document
from danlu.data.ledger import Ledger
from danlu.data.sources import FileReport, read

ROWS = "".join(
    json.dumps({"question": f"{n}？", "answer": f"{n}。"}, ensure_ascii=False) + "\n" for n in "一二三"
).encode()
NOTE = "# 通知\n\n差旅每天八十元。".encode()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def account(path: Path, content: bytes) -> tuple[list[Any], Ledger]:
    path.write_bytes(content)
    ledger = Ledger()
    reports: list[FileReport] = []
    found = list(read([path], ledger, reports=reports))
    ledger.check()
    assert reports[0].num_read == ledger.num_read
    return found, ledger


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred), ("no-suffix", zipped)])
def test_an_archive_is_read_like_a_folder(tmp_path: Path, name: str, pack: Any) -> None:
    found, ledger = account(
        tmp_path / name, pack({"b/rows.jsonl": ROWS, "a/通知.md": NOTE, "__MACOSX/x": b"?", ".git/x": b"?"})
    )
    files = {sample.origin.file.partition("#")[2] for sample in found}
    assert files == {"b/rows.jsonl", "a/通知.md"}
    assert not ledger.rejects
    note = next(sample for sample in found if sample.kind == "document")
    assert (note.title, note.group) == ("通知", f"{(tmp_path / name).as_posix()}#a/通知.md")
    again = text_of_document(note.origin.file, note.origin.document)
    assert again.text[note.origin.start : note.origin.end] == note.text


def test_names_from_chinese_windows_are_told_right(tmp_path: Path) -> None:
    content = zipped({"XXXX.md": NOTE}).replace(b"XXXX.md", "通知".encode("gb18030") + b".md")
    (found,), _ = account(tmp_path / "a.zip", content)
    assert found.origin.file.endswith("a.zip#通知.md")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.md", "..\\..\\x.md", "\x1b[2J.md"])
def test_names_never_lead_anywhere(tmp_path: Path, name: str) -> None:
    shown = safe_name(name)
    assert ".." not in shown.split("/")
    assert not shown.startswith("/")
    assert shown.isprintable()
    account(tmp_path / "a.zip", zipped({name: NOTE}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_zip_bomb_is_refused_and_its_neighbours_are_read(tmp_path: Path) -> None:
    found, ledger = account(tmp_path / "a.zip", zipped({"bomb.txt": b"\x00" * (64 << 20), "z.md": NOTE}))
    assert [(entry.reason, entry.file[-14:]) for entry in ledger.rejects] == [("archive_bomb", "a.zip#bomb.txt")]
    assert len(found) == 1


def test_an_archive_in_an_archive_in_an_archive_ends(tmp_path: Path) -> None:
    content = zipped({"note.md": NOTE})
    for depth in range(6):
        content = zipped({f"{depth}.zip": content, f"{depth}.md": NOTE})
    found, ledger = account(tmp_path / "a.zip", content)
    assert [entry.reason for entry in ledger.rejects] == ["too_deep_inside"]
    assert len(found) == 4


def test_too_many_and_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclosed.Room.__init__, "__defaults__", (3, 1 << 20))
    found, ledger = account(tmp_path / "a.zip", zipped({f"{n}.md": NOTE for n in range(9)}))
    assert (len(found), [entry.reason for entry in ledger.rejects]) == (3, ["too_many_files"])
    noise = bytes(range(256)) * 3000
    found, ledger = account(tmp_path / "b.zip", zipped({"1.md": NOTE, "2.bin": noise, "3.bin": noise}))
    assert [entry.reason for entry in ledger.rejects] == ["binary_file", "archive_too_large"]


def test_a_locked_and_a_broken_member_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.md": NOTE, "b.md": b"hello hello hello " * 9, "c.md": NOTE}))
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + offset] |= 1  # the first member's flag: encrypted
    body = content.index(b"b.md") + 4
    content[body + 3] ^= 0xFF
    found, ledger = account(tmp_path / "a.zip", bytes(content))
    assert [(entry.reason, entry.file[-4:]) for entry in ledger.rejects] == [
        ("encrypted", "a.md"),
        ("broken_member", "b.md"),
    ]
    assert [sample.origin.file[-4:] for sample in found] == ["c.md"]


def test_the_same_file_twice_and_a_changed_one(tmp_path: Path) -> None:
    found, _ = account(tmp_path / "a.zip", zipped({"one.md": NOTE, "two.md": NOTE}))
    first, second = found
    assert first.origin.document == second.origin.document
    assert text_of_document(second.origin.file).text == second.text
    with pytest.raises(DataError):
        text_of_document(f"{(tmp_path / 'a.zip').as_posix()}#three.md")
    account(tmp_path / "a.zip", zipped({"one.md": NOTE + b"!"}))
    with pytest.raises(DataError, match=first.origin.document[:12]):
        text_of_document(first.origin.file, first.origin.document)


def letter(text: str = "您好，\n附件是报价。", subject: str = "报价") -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "张三 <zhang@example.com>", "li@example.com"
    message["Message-ID"] = "<1@example.com>"
    message.set_content(text)
    return message


def test_a_letter_with_its_attachments(tmp_path: Path) -> None:
    message = letter()
    message.add_alternative("<html><body><p>您好</p></body></html>", subtype="html")
    message.add_attachment(NOTE, maintype="text", subtype="markdown", filename="通知.md")
    message.add_attachment(zipped({"rows.jsonl": ROWS}), maintype="application", subtype="zip", filename="数据.zip")
    message.add_attachment(
        b"\x89PNG\r\n\x1a\n\x00\x00\x01", maintype="image", subtype="png", cid="<logo>", disposition="inline"
    )
    message.add_attachment(letter("再转一次。", "转发"))
    found, ledger = account(tmp_path / "a.eml", message.as_bytes())
    assert found[0].text == "# 报价\n\nFrom: 张三 <zhang@example.com>\nTo: li@example.com\n\n您好，\n附件是报价。"
    assert found[0].title == "报价"
    names = [sample.origin.file.partition("#")[2] for sample in found[1:]]
    assert names == ["通知.md", *["数据.zip#rows.jsonl"] * 3, "letter 7.eml"]
    assert found[-1].text.endswith("再转一次。")
    assert not ledger.rejects
    assert len(ledger.notes) == 1, "the logo"


def test_a_letter_of_html_alone_in_an_old_encoding_with_raw_headers(tmp_path: Path) -> None:
    content = "Message-ID: <1@x>\r\nSubject: 会议纪要\r\nContent-Type: text/html; charset=gb2312\r\n\r\n<h1>纪要</h1><p>囍</p>"
    (found,), _ = account(tmp_path / "a.eml", content.encode("gb18030"))
    assert found.text == "# 会议纪要\n\n# 纪要\n\n囍"


def test_a_letter_without_words_is_refused(tmp_path: Path) -> None:
    found, ledger = account(tmp_path / "a.eml", b"Subject: x\nMessage-ID: <1@x>\n\n\n")
    assert (found, [entry.reason for entry in ledger.rejects]) == ([], ["no_text"])


def test_a_mailbox_letter_by_letter(tmp_path: Path) -> None:
    one = letter("第一封。\n>From here on\n", "一")
    two = letter("第二封。", "二")
    two.add_attachment(NOTE, maintype="text", subtype="markdown", filename="a.md")
    begin = b"From zhang@example.com Thu Jan  1 00:00:00 2026\n"
    content = begin + one.as_bytes() + b"\n" + begin + two.as_bytes() + b"\n" + begin + b"\n\n"
    found, ledger = account(tmp_path / "a.mbox", content)
    assert [sample.title for sample in found] == ["一", "二", "通知"]
    assert found[1].origin.line > found[0].origin.line
    assert found[2].origin.file.endswith(f"a.mbox#{found[1].origin.line}/a.md")
    assert "From here on" in text_of_document((tmp_path / "a.mbox").as_posix()).text
    assert not ledger.rejects
    (tmp_path / "mailbox").write_bytes(content)
    assert len(list(read([tmp_path / "mailbox"], Ledger()))) == 3, "known by its content"


def test_a_text_that_quotes_a_letter_is_no_letter(tmp_path: Path) -> None:
    (found,), _ = account(tmp_path / "a.md", b"From: the desk of\n\nSubject: to change\n\nText.")
    assert found.text.startswith("From: the desk")


def test_a_picture_needs_a_recogniser(tmp_path: Path) -> None:
    class Told:
        name = "told"

        def key(self) -> dict[str, Any]:
            return {}

        def recognise(self, file: Path, pages: Any) -> dict[int, str]:
            return {1: f"{list(pages)} {file.name}"}

    content = b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 20
    _, ledger = account(tmp_path / "a.png", content)
    assert [entry.reason for entry in ledger.rejects] == ["picture_needs_ocr"]
    (found,) = read([tmp_path / "a.png"], Ledger(), recogniser=Told())
    assert found.text == "[1] a.png"  # type: ignore[union-attr]
