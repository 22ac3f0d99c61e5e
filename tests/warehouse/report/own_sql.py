"""Parts of SQL that tests hold a report against: written again here, so that they do not follow the report's own."""

COUNTS = "NOT superseded AND NOT is_invalid AND NOT is_simulated"
"""A run that figures are over."""
NAMED = "experiment, hardware || ' x' || gpu_count AS hardware"
"""What a chart's rows call a configuration."""
LEVELS = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
TIMES = {
    "ttft": "ttft_ms",
    "tpot": "(e2e_ms - ttft_ms) / (requests.output_tokens - 1)",
    "e2e": "e2e_ms",
    "itl": "unnest(itl_ms)",
}
"""Of a request (ms), or of all its gaps."""
