"""Sections of the data report on what is in the rows: twins, conflicts, privacy, quality, synthesis, diversity, audit.

Each takes the facts and the words, and gives a section, or None where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.tag import Content
from danlu.data.excerpts import veil
from danlu.data.privacy.finding import KINDS
from danlu.data.quality.facts import Cluster, DataFacts, DiversityFacts, Member, SynthesisFacts
from danlu.pipeline.data_report_charts import columns, without_folder
from danlu.pipeline.data_report_words import Words, count, percent

_SHOWN_CHARS = 400
_NUM_DOCUMENTS = 100


def twins_section(facts: DataFacts, words: Words) -> Markup | None:
    twins, conflicts = facts.told.twins, facts.told.conflicts
    if twins is None and conflicts is None:
        return None
    blocks: list[Content] = []
    if twins is not None:
        pairs = [
            (words("twins_compared"), count(twins.num_rows)),
            (words("twins_exact"), count(twins.num_exact)),
            (words("twins_near", threshold=f"{twins.threshold:g}"), count(twins.num_near)),
            (words("twins_clusters"), count(twins.num_clusters)),
        ]
        notes = [words(f"twins_dropped_{twins.dropped}")]
        if twins.sampled:
            notes.append(words("twins_sampled", rows=count(twins.sampled)))
        blocks.append(html.card("", html.facts(pairs, spread=True), note=" ".join(notes)))
        if twins.top:
            rows = [_cluster_row(cluster, words) for cluster in twins.top]
            heads = [words("cluster_size"), words("cluster_rows")]
            blocks.append(html.tag("h3", {"style": "margin: 22px 0 10px"}, words("clusters", num=len(rows))))
            table = html.filter_table(heads, rows, search=words("search"), empty=words("nothing_left"))
            blocks.append(html.tag("div", {"style": "margin-bottom: 16px"}, table))
    if conflicts is not None:
        sentence = words("conflicts_found", questions=count(conflicts.num_questions), rows=count(conflicts.num_rows))
        blocks.append(html.card(words("conflicts"), html.paragraph(sentence)))
        if conflicts.top:
            told = [[one.question, _members(one.answers)] for one in conflicts.top]
            shown = html.table([words("question"), words("answers")], told, numeric=False)
            blocks.append(html.details(words("conflicts_top", num=len(told)), shown))
    return html.section(words("twins"), *blocks, lead=words("twins_lead"))


def _cluster_row(cluster: Cluster, words: Words) -> html.Row:
    sign = html.badge(words("exact" if cluster.is_exact else "near"))
    size = html.tag("span", None, f"{cluster.size:,} × ", sign)
    return html.Row((size, _members(cluster.members, cluster.size)), keys=(cluster.size, ""))


def _members(members: Sequence[Member], size: int = 0) -> Markup:
    lines = []
    for index, one in enumerate(members):
        more = f" + {size - len(members):,}" if index == len(members) - 1 and size > len(members) else ""
        note = html.tag("span", {"class": "cell-note"}, f"{one.where}{more}")
        lines.append(html.tag("div", None, one.text.replace("\n", " ⏎ "), note))
    return Markup("").join(lines)


def privacy_section(facts: DataFacts, words: Words) -> Markup:
    found = facts.told.privacy
    if found is None:
        return html.section(words("privacy"), html.card("", html.paragraph(words("privacy_off"))))
    if not found:
        return html.section(words("privacy"), html.card("", html.paragraph(words("privacy_nothing"))))
    order = ("restricted", "confidential", "internal", "public")
    ranked = sorted(found, key=lambda one: (order.index(one.level) if one.level in order else 9, -one.count, one.type))
    rows: list[list[Content]] = [
        [
            _kind_name(one.type, words),
            html.badge(words.known("level", one.level), tone="bad" if one.level == "restricted" else ""),
            words.known("action", one.action),
            count(one.count),
        ]
        for one in ranked
    ]
    heads = [words("pii_type"), words("pii_level"), words("pii_action"), words("pii_count")]
    levels = facts.balance.get("levels", {})
    graded = html.facts(
        [(words.known("level", name), words("rows", rows=count(number))) for name, number in levels.items()],
        spread=True,
    )
    return html.section(
        words("privacy"),
        html.card("", html.table(heads, rows, numeric=False)),
        html.card(words("levels"), graded) if levels else None,
        lead=words("privacy_lead"),
    )


def _kind_name(name: str, words: Words) -> str:
    """What privacy calls a kind, in the reader's language."""
    if name not in KINDS:
        return words.known("pii", name)
    return KINDS[name].zh if words.language == "zh" else name.replace("_", " ")


def quality_section(facts: DataFacts, words: Words) -> Markup | None:
    if not facts.scores and not facts.flags:
        return None
    cards = []
    for name, scores in facts.scores.items():
        note = words("score_note", mean=f"{scores.mean:.2f}", rows=count(scores.num))
        title = words.known("score", name)
        cards.append(html.card(title, columns(scores, title=title, x_label=words("score")), note=note))
    if facts.rules:
        listed = [(words(f"rule_{name}"), number) for name, number in facts.rules.items()]
        cards.append(_counted(words("rules"), listed, words("rules_note", rows=count(facts.num_scored)), words))
    if facts.flags:
        listed = [(words.reason(name), number) for name, number in facts.flags.items()]
        cards.append(_counted(words("flags"), listed, words("flags_note"), words))
    return html.section(words("quality"), html.grid(*cards, wide=True), lead=words("quality_lead"))


def _counted(title: str, listed: Sequence[tuple[str, int]], note: str, words: Words) -> Markup:
    rows = [[name, count(number)] for name, number in listed[:12]]
    return html.card(title, html.table([words("reason"), words("num_rows")], rows), note=note)


def synthesis_section(facts: DataFacts, words: Words) -> Markup | None:
    made = facts.told.synthesis
    if made is None:
        return None
    pairs = [(words("made"), count(made.num_made)), (words("made_kept"), _share(made.num_kept, made.num_made))]
    pairs.append((words("grounded"), _share(made.num_grounded, made.num_checked)))
    pairs.append((words("unanswerable"), count(made.num_unanswerable)))
    pairs.append((words("teacher_calls"), count(made.num_calls)))
    if made.teacher:
        pairs.append((words("teacher"), made.teacher))
    if made.cost:
        pairs.append((words("cost"), f"{made.cost:,.2f} {made.currency}".strip()))
    return html.section(
        words("synthesis"),
        html.card("", html.facts(pairs, spread=True)),
        _refused(made, words),
        lead=words("synthesis_lead"),
    )


def _refused(made: SynthesisFacts, words: Words) -> Markup | None:
    if not made.rejected:
        return None
    listed = sorted(made.rejected.items(), key=lambda entry: -entry[1])
    return html.card(
        words("made_rejected"),
        html.table([words("reason"), words("num_rows")], [[words.reason(name), count(num)] for name, num in listed]),
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} / {whole:,} ({percent(part / whole)})" if whole else "–"


def coverage_section(facts: DataFacts, words: Words) -> Markup | None:
    coverage = facts.coverage
    if coverage is None:
        return None
    names = list(without_folder({one.name: 1 for one in coverage.documents}, whole=True))
    rows = [
        html.Row(
            (name, count(one.num_chars), count(one.num_passages), _rows_of(one.num_rows, words)),
            ("without",) if not one.num_rows else (),
            (one.name, one.num_chars, one.num_passages, one.num_rows),
        )
        for name, one in list(zip(names, coverage.documents, strict=True))[:_NUM_DOCUMENTS]
    ]
    heads = [words("document"), words("num_chars"), words("num_passages"), words("num_rows")]
    filters = [html.Filter("", words("all")), html.Filter("without", words("without_rows"))]
    lead = words("coverage_lead", documents=count(coverage.num_documents), without=count(coverage.num_without))
    table = html.filter_table(heads, rows, filters=filters, search=words("search"), empty=words("nothing_left"))
    return html.section(words("coverage"), table, lead=lead)


def _rows_of(number: int, words: Words) -> Content:
    return count(number) if number else html.badge(words("none"), tone="bad")


def diversity_section(facts: DataFacts, words: Words) -> Markup | None:
    diversity = facts.diversity
    if diversity is None or not diversity.num_sampled:
        return None
    pairs = [(words("distinct", n=size), f"{value:.2f}") for size, value in diversity.distinct.items()]
    pairs.append((words("mean_nearest"), f"{diversity.mean_nearest:.2f}"))
    note = words("diversity_note", rows=count(diversity.num_sampled))
    return html.section(
        words("diversity"),
        html.card("", html.facts(pairs, spread=True), note=note),
        _topics(diversity, words),
        lead=words("diversity_lead"),
    )


def _topics(diversity: DiversityFacts, words: Words) -> Markup | None:
    if not diversity.topics:
        return None
    rows: list[list[Content]] = []
    has_labels = any(topic.label for topic in diversity.topics)
    for topic in diversity.topics:
        thin = html.badge(words("thin"), tone="warn") if topic.share < 0.03 else None
        told = html.tag("span", None, " · ".join(topic.words) or "–", " ", thin)
        rows.append([told, *([topic.label] if has_labels else []), percent(topic.share)])
    heads = [words("topic"), *([words("topic_label")] if has_labels else []), words("topic_share")]
    return html.card(words("topics"), html.table(heads, rows), note=words("topics_note"))


def audit_section(facts: DataFacts, words: Words) -> Markup | None:
    if not facts.audit:
        return None
    rows = [
        html.Row((_audit_cell(veil(one.prompt, _SHOWN_CHARS), one.where), veil(one.answer, _SHOWN_CHARS)))
        for one in facts.audit
    ]
    table = html.filter_table(
        [words("asked"), words("answered")], rows, search=words("search"), empty=words("nothing_left")
    )
    lead = words("audit_lead", rows=len(facts.audit), file="audit_sheet.csv")
    return html.section(words("audit"), table, lead=lead)


def _audit_cell(text: str, where: str) -> Markup:
    return html.tag("div", None, text or "–", html.tag("span", {"class": "cell-note"}, where))


def named(counts: Mapping[str, int], words: Words, prefix: str) -> dict[str, int]:
    """Counts under the names that the reader's language has for them."""
    return {words.known(prefix, name): number for name, number in counts.items()}
