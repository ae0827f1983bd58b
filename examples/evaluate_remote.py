"""Ask any OpenAI-compatible server a file of questions and count right answers, with error bars. Needs no torch.

    python examples/evaluate_remote.py http://127.0.0.1:8000/v1 my-model questions.jsonl

`questions.jsonl` is in any format danlu reads (`{"question": …, "answer": …}` for one). The key, if the server wants
one, lies in a file: `--key-file ~/.key`. Answers are kept beside the questions, so a stopped run goes on for nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.engines.cache import AnswerCache
from danlu.engines.engine import Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.evaluation.items import load_questions
from danlu.evaluation.metrics import METRICS, metric_for
from danlu.evaluation.stats import Estimate, proportion


def main(arguments: Sequence[str] | None = None) -> Estimate:
    """Accuracy with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="base URL, for example http://127.0.0.1:8000/v1")
    parser.add_argument("model", help="the model's name on that server")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    chosen = parser.parse_args(arguments)

    ledger = Ledger()
    items = load_questions(read([chosen.questions], ledger)).items
    for entry in ledger.rejects:
        print(f"not asked: {entry}")

    cache = AnswerCache(chosen.questions.with_suffix(".answers"))
    engine = RemoteEngine(Endpoint(chosen.url, chosen.model, key_file=chosen.key_file), cache=cache)
    answers = engine.generate([item.question for item in items], Sampling(chosen.max_new_tokens))

    right = []
    for item, answer in zip(items, answers, strict=True):
        if answer.finish == "error":
            print(f"✗ {item.text}\n    failed: {answer.error}")
            right.append(False)
            continue
        verdict = METRICS.load(metric_for(item))().score(answer.text, item)
        right.append(verdict.right)
        print(f"{'✓' if verdict.right else '✗'} {item.text}\n    said: {answer.text}\n    right: {item.reference}")

    # Wordings of one fact stand or fall together; the interval knows which belong to one.
    accuracy = proportion(right, [item.cluster for item in items])
    print(
        f"\n{sum(right)} of {len(right)} right: {accuracy.value:.1%} (95 %: {accuracy.low:.1%} – {accuracy.high:.1%})"
    )
    return accuracy


if __name__ == "__main__":
    main()
