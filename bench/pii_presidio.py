"""Presidio on rows of a file: `python pii_presidio.py ROWS.jsonl OUT.json`, in an environment of its own.

All predefined recognizers for English that work by pattern and check digit, with an empty spaCy pipeline: its words of
context count, its model of names does not exist here.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import PhoneRecognizer, UkNinoRecognizer

KINDS = {"CREDIT_CARD": "bank_card", "EMAIL_ADDRESS": "email", "IP_ADDRESS": "ip", "IBAN_CODE": "iban",
         "PHONE_NUMBER": "phone", "US_SSN": "us_ssn", "UK_NINO": "uk_nino", "MAC_ADDRESS": "mac"}  # fmt: skip


class Blank(SpacyNlpEngine):
    def __init__(self) -> None:
        super().__init__()
        self.nlp = {"en": spacy.blank("en")}


def main() -> None:
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("SpacyRecognizer")
    registry.remove_recognizer("PhoneRecognizer")
    registry.add_recognizer(PhoneRecognizer(supported_regions=("US", "UK", "GB", "DE", "FR", "CN", "CA")))
    registry.add_recognizer(UkNinoRecognizer())  # not loaded by default
    engine = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=["en"])
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    engine.analyze(text="warm up 4111 1111 1111 1111", language="en")
    began = time.process_time()
    spans = [
        [(KINDS[hit.entity_type], hit.start, hit.end) for hit in engine.analyze(text=text, language="en")
         if hit.entity_type in KINDS and hit.score >= 0.4]
        for text in texts
    ]  # fmt: skip
    taken = time.process_time() - began
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        json.dump({"spans": spans, "cpu_s": taken, "version": importlib.metadata.version("presidio-analyzer")}, file)


main()
