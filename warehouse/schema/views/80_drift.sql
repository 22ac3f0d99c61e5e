-- Whether figures wander: with time, or with the GPU.

CREATE VIEW drift_over_time AS
WITH measured AS (
    SELECT
        campaign_id,
        start_time,
        epoch(start_time) / 3600 AS hour,
        energy_per_output_token_j,
        output_tokens_per_second,
        ttft_mean_ms,
        mean_power_w,
        baseline_power_w
    FROM cycles
),
by_campaign AS (
    SELECT
        campaign_id,
        min(start_time) AS first_start,
        max(start_time) AS last_start,
        [
            {
                metric: 'energy_per_output_token_j', unit: 'J/token', n_samples: count(energy_per_output_token_j),
                first: arg_min(energy_per_output_token_j, hour), last: arg_max(energy_per_output_token_j, hour),
                slope: regr_slope(energy_per_output_token_j, hour), correlation: corr(energy_per_output_token_j, hour)
            },
            {
                metric: 'output_tokens_per_second', unit: 'tokens/s', n_samples: count(output_tokens_per_second),
                first: arg_min(output_tokens_per_second, hour), last: arg_max(output_tokens_per_second, hour),
                slope: regr_slope(output_tokens_per_second, hour), correlation: corr(output_tokens_per_second, hour)
            },
            {
                metric: 'ttft_mean_ms', unit: 'ms', n_samples: count(ttft_mean_ms),
                first: arg_min(ttft_mean_ms, hour), last: arg_max(ttft_mean_ms, hour),
                slope: regr_slope(ttft_mean_ms, hour), correlation: corr(ttft_mean_ms, hour)
            },
            {
                metric: 'mean_power_w', unit: 'W', n_samples: count(mean_power_w),
                first: arg_min(mean_power_w, hour), last: arg_max(mean_power_w, hour),
                slope: regr_slope(mean_power_w, hour), correlation: corr(mean_power_w, hour)
            },
            {
                metric: 'baseline_power_w', unit: 'W', n_samples: count(baseline_power_w),
                first: arg_min(baseline_power_w, hour), last: arg_max(baseline_power_w, hour),
                slope: regr_slope(baseline_power_w, hour), correlation: corr(baseline_power_w, hour)
            }
        ] AS drifts
    FROM measured
    GROUP BY campaign_id
)
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    hardware,
    drift.metric AS metric,
    drift.unit AS unit,
    drift.n_samples AS n_samples,
    first_start,
    last_start,
    drift.first AS first,
    drift.last AS last,
    CASE WHEN isfinite(drift.slope) THEN drift.slope END AS slope_per_hour,
    drift.last / nullif(drift.first, 0) - 1 AS relative_change,
    -- Two points are always on a line.
    CASE WHEN drift.n_samples > 2 AND isfinite(drift.correlation) THEN greatest(-1, least(1, drift.correlation)) END AS correlation
FROM (
    SELECT by_campaign.*, study, experiment, backend, hardware, unnest(drifts) AS drift
    FROM by_campaign
    JOIN campaign_groups USING (campaign_id)
)
WHERE drift.n_samples > 1;
COMMENT ON VIEW drift_over_time IS 'Whether a metric wanders within a campaign: one metric of one campaign with two cycles or more per row.';
COMMENT ON COLUMN drift_over_time.unit IS 'of first and last';
COMMENT ON COLUMN drift_over_time.first_start IS 'when the first cycle that counts began';
COMMENT ON COLUMN drift_over_time.last_start IS 'when the last one began';
COMMENT ON COLUMN drift_over_time.first IS 'its value in the first cycle that measured it, in unit';
COMMENT ON COLUMN drift_over_time.last IS 'its value in the last one, in unit';
COMMENT ON COLUMN drift_over_time.slope_per_hour IS 'of the least squares line through all cycles, over the time they began (unit per hour)';
COMMENT ON COLUMN drift_over_time.relative_change IS 'last / first - 1';
COMMENT ON COLUMN drift_over_time.correlation IS 'Pearson''s, of metric and time; NULL: two cycles only, or nothing changes';

CREATE VIEW drift_by_gpu AS
WITH measured AS (
    SELECT
        campaign_id,
        hardware,
        CASE WHEN len(gpu_uuids) = 1 THEN gpu_uuids[1] END AS gpu_uuid,
        start_time,
        energy_per_output_token_j,
        output_tokens_per_second,
        mean_power_w
    FROM cycles
),
-- As in intervals, whose rows would have to be put side by side for this.
means AS (
    SELECT
        campaign_id,
        avg(energy_per_output_token_j) AS mean_energy_j,
        avg(output_tokens_per_second) AS mean_rate,
        avg(mean_power_w) AS mean_w
    FROM measured
    GROUP BY campaign_id
),
compared AS (
    SELECT
        gpu_uuid,
        measured.hardware,
        start_time,
        epoch(start_time) / 86400 AS day,
        energy_per_output_token_j / nullif(mean_energy_j, 0) AS energy_ratio,
        output_tokens_per_second / nullif(mean_rate, 0) AS rate_ratio,
        mean_power_w / nullif(mean_w, 0) AS power_ratio
    FROM measured
    JOIN means USING (campaign_id)
    JOIN campaign_groups USING (campaign_id)
    WHERE gpu_uuid IS NOT NULL AND n_gpu_sets > 1
),
by_gpu AS (
    SELECT
        gpu_uuid,
        hardware,
        min(start_time) AS first_start,
        max(start_time) AS last_start,
        unnest([
            {
                metric: 'energy_per_output_token_j', n_samples: count(energy_ratio), mean_ratio: avg(energy_ratio),
                std_ratio: stddev_samp(energy_ratio), slope: regr_slope(energy_ratio, day)
            },
            {
                metric: 'output_tokens_per_second', n_samples: count(rate_ratio), mean_ratio: avg(rate_ratio),
                std_ratio: stddev_samp(rate_ratio), slope: regr_slope(rate_ratio, day)
            },
            {
                metric: 'mean_power_w', n_samples: count(power_ratio), mean_ratio: avg(power_ratio),
                std_ratio: stddev_samp(power_ratio), slope: regr_slope(power_ratio, day)
            }
        ]) AS figures
    FROM compared
    GROUP BY gpu_uuid, hardware
)
SELECT
    gpu_uuid,
    hardware,
    figures.metric AS metric,
    figures.n_samples AS n_samples,
    figures.mean_ratio AS mean_ratio,
    figures.std_ratio AS std_ratio,
    CASE WHEN isfinite(figures.slope) THEN figures.slope END AS ratio_slope_per_day,
    first_start,
    last_start
FROM by_gpu
WHERE figures.n_samples > 0;
COMMENT ON VIEW drift_by_gpu IS
    'How each GPU differs from its fellows: its cycles / the mean of their campaigns, over campaigns that ran on several sets of GPUs; only cycles on a single GPU.';
COMMENT ON COLUMN drift_by_gpu.gpu_uuid IS 'UUID of the GPU';
COMMENT ON COLUMN drift_by_gpu.metric IS 'energy_per_output_token_j, output_tokens_per_second or mean_power_w';
COMMENT ON COLUMN drift_by_gpu.n_samples IS 'cycles on this GPU';
COMMENT ON COLUMN drift_by_gpu.mean_ratio IS 'mean of cycle / mean of its campaign; 1 is like the others';
COMMENT ON COLUMN drift_by_gpu.std_ratio IS 'standard deviation of that ratio, ddof 1; NULL: one cycle';
COMMENT ON COLUMN drift_by_gpu.ratio_slope_per_day IS 'of the least squares line through the ratios, over the time the cycles began (1/day)';
COMMENT ON COLUMN drift_by_gpu.first_start IS 'when the first of these cycles began';
COMMENT ON COLUMN drift_by_gpu.last_start IS 'when the last one began';
