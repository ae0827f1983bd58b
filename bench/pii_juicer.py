"""data-juicer's cleaners of e-mail and IP on rows of a file: `python pii_juicer.py ROWS.jsonl OUT.json`.

It removes what it finds and keeps no spans: each operator is run alone, and what it took away is found again with its
own pattern.
"""

import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path

from data_juicer.ops.mapper.clean_email_mapper import CleanEmailMapper
from data_juicer.ops.mapper.clean_ip_mapper import CleanIpMapper


def main() -> None:
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    spans = [[] for _ in texts]
    taken = 0.0
    for kind, operator in (("email", CleanEmailMapper()), ("ip", CleanIpMapper())):
        pattern = re.compile(operator.pattern, re.DOTALL)
        began = time.process_time()
        cleaned = operator.process_batched({"text": list(texts)})["text"]
        taken += time.process_time() - began
        for index, (text, left) in enumerate(zip(texts, cleaned, strict=True)):
            if left != text:
                spans[index] += [(kind, *found.span()) for found in pattern.finditer(text)]
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        json.dump({"spans": spans, "cpu_s": taken, "version": importlib.metadata.version("py-data-juicer")}, file)


main()
