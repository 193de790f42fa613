"""The page of the bench's figures: formulas, columns and when a point is not valid."""

from __future__ import annotations

import inspect

from modeltainer.bench import metrics, sweep, validity
from modeltainer.bench.record import Record
from tools.reference.markdown import HEAD, code, one_line, table
from tools.reference.source import fields


def page() -> str:
    """Formulas, percentiles, columns, validity."""
    parts = ["# Figures of the bench\n", HEAD, "## Formulas\n"]
    about = (inspect.getdoc(metrics) or "").partition("\n")[2].strip()
    parts.append("Times in seconds.\n\n" + about + "\n")
    parts += [
        "## Percentiles\n",
        "Given from so many requests on, p50 with a bootstrap interval:\n",
    ]
    parts.append(
        table(
            ("percentile", "requests"),
            [(f"p{name}", str(least)) for name, least in metrics.MIN_SAMPLES.items()],
        )
    )
    parts += ["## When a point is marked as not valid\n"]
    parts.append(
        f"- A client process used more than {validity.MAX_CPU:.0%} of a core.\n"
        f"- Requests left late, or the client's loop was late, by more than "
        f"{validity.MAX_LAG_SHARE:.0%} of the median TTFT (and more than "
        f"{validity.MIN_LAG_S * 1000:g} ms).\n"
        f"- Fewer than {validity.MIN_RATE_SHARE:.0%} of the requests of an open loop were sent.\n"
        f"- More than {validity.MAX_FAILED_SHARE:.0%} of the requests failed, or there were none.\n"
        "- The harness's own error at this load, calibrated after each point, is above the "
        f"same limit; that of TPOT, above {validity.MAX_LAG_SHARE:.0%} of the median TPOT (and "
        f"more than {validity.MIN_TPOT_ERROR_S * 1000:g} ms). Or the calibration failed.\n"
        "- The load of a rate piled up (many more requests were in flight towards the end than in "
        "the middle), or never got steady.\n"
        f"- More than {validity.MAX_CACHED_SHARE:.0%} of the prompt tokens came from a prefix "
        "cache that was not asked for.\n\n"
        "Told, but not held against the point: tokens that are a guess, and answers with fewer "
        f"than {validity.MIN_OUTPUT_SHARE:.0%} of the output tokens asked for, unless "
        "`--no-ignore-eos` leaves their length to the model.\n"
    )
    parts += ["## When a rate is carried\n"]
    parts.append(
        f"The search of `--slo` takes a rate as carried when {sweep.GOODPUT_TARGET:.0%} of its "
        "requests meet every objective (the goodput); failures are misses. A rate under which "
        "requests pile up is not carried, however short the point; nor is one at which the client "
        "was the bottleneck, twice.\n"
    )
    parts += ["## Columns of requests.jsonl, .csv and .parquet\n", (Record.__doc__ or "") + "\n"]
    parts.append(
        table(
            ("column", "type", "meaning"),
            [
                (code(one.name), code(one.kind.replace("|", "or")), one_line(one.text))
                for one in fields(Record)
            ],
        )
    )
    return "\n".join(parts)
