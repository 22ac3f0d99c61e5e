-- The stored intervals beside the settings of their campaigns; metrics are told apart by their unit.

CREATE VIEW campaign_intervals AS
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    model,
    dtype,
    batch_size,
    num_processes,
    gpus_per_process,
    hardware,
    gpu_count,
    n_cycles,
    metric,
    unit,
    n_samples,
    mean,
    std,
    t_lower,
    t_upper,
    t_method,
    percentile_lower,
    percentile_upper,
    confidence,
    expected_percentile_coverage,
    warning
FROM intervals
JOIN campaign_groups USING (campaign_id)
WHERE NOT is_simulated;
COMMENT ON VIEW campaign_intervals IS
    'Mean and both intervals of one metric of one campaign per row, with the campaign''s settings; not of simulated GPUs.';

CREATE VIEW energy AS SELECT * FROM campaign_intervals WHERE unit IN ('J', 'J/token', 'W');
COMMENT ON VIEW energy IS 'Energy, of prefill and decode as well, and power: one metric of one campaign per row, with mean and both intervals.';

CREATE VIEW throughput AS SELECT * FROM campaign_intervals WHERE unit IN ('tokens/s', 'requests/s', 'tokens', 's');
COMMENT ON VIEW throughput IS 'Rates, goodput, tokens and windows: one metric of one campaign per row, with mean and both intervals.';

CREATE VIEW latency AS SELECT * FROM campaign_intervals WHERE unit = 'ms';
COMMENT ON VIEW latency IS 'TTFT, ITL, TPOT and e2e: one metric of one campaign per row, with mean and both intervals.';
