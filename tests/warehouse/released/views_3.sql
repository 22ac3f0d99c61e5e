-- Every run, and those that count. Labels are stored with the run; here is only what follows from them.
CREATE VIEW runs AS
SELECT
    *,
    NOT (superseded OR is_invalid OR is_simulated) AS counts,
    output_tokens / nullif(total_energy_j, 0) AS output_tokens_per_joule,
    total_tokens / nullif(total_energy_j, 0) AS tokens_per_joule,
    avg_energy_per_token_j AS joules_per_token,
    total_energy_j / nullif(total_inference_time_sec, 0) AS mean_power_w,
    total_energy_j - energy_adjusted_j AS idle_energy_j,
    energy_bound_j / nullif(total_energy_j, 0) AS energy_bound_ratio
FROM experiments;
COMMENT ON VIEW runs IS 'Every experiment that was ingested, whether it counts, and figures that follow from its own.';
COMMENT ON COLUMN runs.counts IS 'in default summaries: neither superseded nor invalid nor simulated';
COMMENT ON COLUMN runs.output_tokens_per_joule IS 'output tokens / total energy (tokens/J)';
COMMENT ON COLUMN runs.tokens_per_joule IS 'total tokens / total energy (tokens/J)';
COMMENT ON COLUMN runs.joules_per_token IS 'total energy / total tokens (J/token)';
COMMENT ON COLUMN runs.mean_power_w IS 'total energy / window (W)';
COMMENT ON COLUMN runs.idle_energy_j IS 'baseline x window: what the devices would have drawn idle (J)';
COMMENT ON COLUMN runs.energy_bound_ratio IS 'bound of the meter''s error / total energy';

CREATE VIEW cycles AS SELECT * FROM runs WHERE counts;
COMMENT ON VIEW cycles IS 'The runs that count: one for each cycle of each campaign.';
-- The harness's rule: the trapezoid over the samples in the window; from the opening mark to the first of them, and
-- from the last to the closing mark, that sample's own power. Power is never interpolated across a mark, because a mark
-- usually coincides with a step of it: the samples around the window do not count, and without any in it there is no
-- energy.
CREATE VIEW energy_from_samples_per_gpu AS
WITH placed AS (
    SELECT
        experiment_key,
        gpu_index,
        timestamp_s,
        gpu_power_w,
        window_from_s,
        window_to_s,
        gpu_power_w IS NOT NULL AND timestamp_s BETWEEN window_from_s AND window_to_s AS inside,
        lag(timestamp_s) OVER gpu AS before_s,
        lag(gpu_power_w) OVER gpu AS before_w
    FROM samples
    JOIN experiments USING (experiment_key)
    -- What has no power stands apart, so that it is nobody's neighbour.
    WINDOW gpu AS (
        PARTITION BY experiment_key, gpu_index, gpu_power_w IS NULL ORDER BY timestamp_s, gpu_power_w
    )
),
summed AS (
    SELECT
        experiment_key,
        gpu_index,
        any_value(window_to_s - window_from_s) AS window_s,
        count(*) FILTER (inside) AS samples,
        -- With one sample the sum is over nothing, which is NULL, and both edges are all there is.
        coalesce(
            sum((timestamp_s - before_s) * (gpu_power_w + before_w) / 2)
                FILTER (inside AND before_s >= window_from_s),
            0
        )
        + min(timestamp_s - window_from_s) FILTER (inside) * arg_min(gpu_power_w, timestamp_s) FILTER (inside)
        + min(window_to_s - timestamp_s) FILTER (inside) * arg_max(gpu_power_w, timestamp_s) FILTER (inside)
            AS held_j
    FROM placed
    GROUP BY experiment_key, gpu_index
),
stored AS (
    SELECT
        summed.*,
        experiment_id,
        coalesce(
            energy_breakdown ->> ('$.devices[' || gpu_index || '].gpu_uuid'),
            environment_snapshot ->> ('$.gpu_uuids[' || gpu_index || ']')
        ) AS gpu_uuid,
        (energy_breakdown ->> ('$.devices[' || gpu_index || '].integral_j'))::DOUBLE AS stored_integral_j,
        gpu_index < coalesce(json_array_length(energy_breakdown, '$.devices'), 0) AS is_stored
    FROM summed
    JOIN experiments USING (experiment_key)
)
SELECT
    experiment_id,
    gpu_index,
    gpu_uuid,
    samples,
    -- What the job itself did not take for a figure (a GPU that was lost, a mark without a sample near it) is none here.
    CASE WHEN stored_integral_j IS NOT NULL OR NOT is_stored THEN held_j END AS energy_j,
    energy_j / nullif(window_s, 0) AS mean_power_w,
    stored_integral_j,
    energy_j / nullif(stored_integral_j, 0) AS ratio
FROM stored;
COMMENT ON VIEW energy_from_samples_per_gpu IS 'Energy of each GPU, computed anew from its samples.';
COMMENT ON COLUMN energy_from_samples_per_gpu.experiment_id IS 'the experiment it belongs to';
COMMENT ON COLUMN energy_from_samples_per_gpu.gpu_index IS 'place of the GPU among those of its job, from 0';
COMMENT ON COLUMN energy_from_samples_per_gpu.gpu_uuid IS 'UUID of the GPU; NULL is not recorded';
COMMENT ON COLUMN energy_from_samples_per_gpu.samples IS 'samples with power in the window';
COMMENT ON COLUMN energy_from_samples_per_gpu.energy_j IS
    'window_from_s to window_to_s; NULL without a sample with power in it, or where the job has none (J)';
COMMENT ON COLUMN energy_from_samples_per_gpu.mean_power_w IS 'energy_j / that time (W)';
COMMENT ON COLUMN energy_from_samples_per_gpu.stored_integral_j IS 'the integral as the job stored it (J)';
COMMENT ON COLUMN energy_from_samples_per_gpu.ratio IS 'energy_j / stored_integral_j';

CREATE VIEW energy_from_samples AS
WITH summed AS (
    SELECT
        experiment_id,
        count(*) AS n_gpus,
        sum(samples)::BIGINT AS samples,
        sum(energy_j) AS known_j,
        count(energy_j) AS n_known
    FROM energy_from_samples_per_gpu
    GROUP BY experiment_id
)
SELECT
    experiment_id,
    n_gpus,
    samples,
    -- Not the sum of the rest where a GPU's is not known.
    CASE
        WHEN n_known >= greatest(n_gpus, coalesce(nullif(json_array_length(energy_breakdown, '$.devices'), 0), gpu_count))
            THEN known_j
    END AS energy_j,
    energy_j / nullif(window_to_s - window_from_s, 0) AS mean_power_w,
    energy_integral_j AS stored_integral_j,
    energy_j / nullif(energy_integral_j, 0) AS ratio,
    energy_source,
    total_energy_j
FROM summed
JOIN experiments USING (experiment_id);
COMMENT ON VIEW energy_from_samples IS 'Energy of each experiment that has samples, computed anew from them.';
COMMENT ON COLUMN energy_from_samples.experiment_id IS 'names one cycle''s result';
COMMENT ON COLUMN energy_from_samples.n_gpus IS 'GPUs with samples';
COMMENT ON COLUMN energy_from_samples.samples IS 'samples with power in the window, all GPUs';
COMMENT ON COLUMN energy_from_samples.energy_j IS
    'sum over the GPUs of the job, window_from_s to window_to_s; NULL if that of one is not known (J)';
COMMENT ON COLUMN energy_from_samples.mean_power_w IS 'energy_j / that time, all GPUs together (W)';
COMMENT ON COLUMN energy_from_samples.stored_integral_j IS 'the integral as the job stored it (J)';
COMMENT ON COLUMN energy_from_samples.ratio IS 'energy_j / stored_integral_j; 1 where nothing was lost on the way';
COMMENT ON COLUMN energy_from_samples.energy_source IS 'which method gave total_energy_j';
COMMENT ON COLUMN energy_from_samples.total_energy_j IS 'the figure that the job stored, by that method (J)';
-- One row for each campaign, with its failures and the intervals of what people ask for most. All of it is stored, so
-- that these are quick also where there are many.

CREATE VIEW standing_failures AS SELECT * FROM failures ANTI JOIN experiments USING (experiment_id);
COMMENT ON VIEW standing_failures IS 'The failures of jobs that have no result, also none that was put together later.';

CREATE VIEW campaigns AS
WITH failed AS (
    SELECT study, measurement_config_hash, count(*)::INTEGER AS n_failed
    FROM standing_failures
    GROUP BY study, measurement_config_hash
),
-- CASE within max, because it takes a third of the time of FILTER; there is one row at most for each.
figures AS (
    SELECT
        campaign_id,
        max(CASE WHEN metric = 'energy_per_output_token_j' THEN mean END) AS energy_per_output_token_j,
        max(CASE WHEN metric = 'energy_per_output_token_j' THEN t_lower END) AS energy_per_output_token_j_t_lower,
        max(CASE WHEN metric = 'energy_per_output_token_j' THEN t_upper END) AS energy_per_output_token_j_t_upper,
        max(CASE WHEN metric = 'output_tokens_per_second' THEN mean END) AS output_tokens_per_second,
        max(CASE WHEN metric = 'output_tokens_per_second' THEN t_lower END) AS output_tokens_per_second_t_lower,
        max(CASE WHEN metric = 'output_tokens_per_second' THEN t_upper END) AS output_tokens_per_second_t_upper,
        max(CASE WHEN metric = 'ttft_mean_ms' THEN mean END) AS ttft_mean_ms,
        max(CASE WHEN metric = 'ttft_mean_ms' THEN t_lower END) AS ttft_mean_ms_t_lower,
        max(CASE WHEN metric = 'ttft_mean_ms' THEN t_upper END) AS ttft_mean_ms_t_upper,
        max(CASE WHEN metric = 'itl_mean_ms' THEN mean END) AS itl_mean_ms,
        max(CASE WHEN metric = 'itl_mean_ms' THEN t_lower END) AS itl_mean_ms_t_lower,
        max(CASE WHEN metric = 'itl_mean_ms' THEN t_upper END) AS itl_mean_ms_t_upper,
        max(CASE WHEN metric = 'e2e_mean_ms' THEN mean END) AS e2e_mean_ms,
        max(CASE WHEN metric = 'e2e_mean_ms' THEN t_lower END) AS e2e_mean_ms_t_lower,
        max(CASE WHEN metric = 'e2e_mean_ms' THEN t_upper END) AS e2e_mean_ms_t_upper,
        max(CASE WHEN metric = 'total_energy_j' THEN mean END) AS total_energy_j,
        max(CASE WHEN metric = 'total_energy_j' THEN t_lower END) AS total_energy_j_t_lower,
        max(CASE WHEN metric = 'total_energy_j' THEN t_upper END) AS total_energy_j_t_upper,
        max(CASE WHEN metric = 'mean_power_w' THEN mean END) AS mean_power_w,
        max(CASE WHEN metric = 'mean_power_w' THEN t_lower END) AS mean_power_w_t_lower,
        max(CASE WHEN metric = 'mean_power_w' THEN t_upper END) AS mean_power_w_t_upper
    FROM intervals
    GROUP BY campaign_id
)
SELECT campaign_groups.*, coalesce(n_failed, 0) AS n_failed, figures.* EXCLUDE (campaign_id)
FROM campaign_groups
LEFT JOIN failed
    ON failed.measurement_config_hash = campaign_groups.measurement_config_hash
    AND failed.study IS NOT DISTINCT FROM campaign_groups.study
LEFT JOIN figures ON figures.campaign_id = campaign_groups.campaign_id
WHERE NOT is_simulated;
COMMENT ON VIEW campaigns IS
    'One configuration of one study under the same conditions per row, with mean and interval of what is asked for most; not those on simulated GPUs.';
COMMENT ON COLUMN campaigns.n_failed IS
    'jobs of this configuration in this study that failed; a failure does not say what it ran on, so each of the study''s campaigns with the configuration has them all';
COMMENT ON COLUMN campaigns.energy_per_output_token_j IS 'mean over the cycles of total energy / output tokens (J/token)';
COMMENT ON COLUMN campaigns.energy_per_output_token_j_t_lower IS 'lower bound of that mean, as in intervals.t_lower (J/token)';
COMMENT ON COLUMN campaigns.energy_per_output_token_j_t_upper IS 'upper bound of that mean, as in intervals.t_upper (J/token)';
COMMENT ON COLUMN campaigns.output_tokens_per_second IS 'mean over the cycles of output tokens / window (tokens/s)';
COMMENT ON COLUMN campaigns.output_tokens_per_second_t_lower IS 'lower bound of that mean, as in intervals.t_lower (tokens/s)';
COMMENT ON COLUMN campaigns.output_tokens_per_second_t_upper IS 'upper bound of that mean, as in intervals.t_upper (tokens/s)';
COMMENT ON COLUMN campaigns.ttft_mean_ms IS 'mean over the cycles of their mean time from arrival to first output token (ms)';
COMMENT ON COLUMN campaigns.ttft_mean_ms_t_lower IS 'lower bound of that mean, as in intervals.t_lower (ms)';
COMMENT ON COLUMN campaigns.ttft_mean_ms_t_upper IS 'upper bound of that mean, as in intervals.t_upper (ms)';
COMMENT ON COLUMN campaigns.itl_mean_ms IS 'mean over the cycles of their mean gap between deliveries (ms)';
COMMENT ON COLUMN campaigns.itl_mean_ms_t_lower IS 'lower bound of that mean, as in intervals.t_lower (ms)';
COMMENT ON COLUMN campaigns.itl_mean_ms_t_upper IS 'upper bound of that mean, as in intervals.t_upper (ms)';
COMMENT ON COLUMN campaigns.e2e_mean_ms IS 'mean over the cycles of their mean time from arrival to last token (ms)';
COMMENT ON COLUMN campaigns.e2e_mean_ms_t_lower IS 'lower bound of that mean, as in intervals.t_lower (ms)';
COMMENT ON COLUMN campaigns.e2e_mean_ms_t_upper IS 'upper bound of that mean, as in intervals.t_upper (ms)';
COMMENT ON COLUMN campaigns.total_energy_j IS 'mean over the cycles of the energy of all devices (J)';
COMMENT ON COLUMN campaigns.total_energy_j_t_lower IS 'lower bound of that mean, as in intervals.t_lower (J)';
COMMENT ON COLUMN campaigns.total_energy_j_t_upper IS 'upper bound of that mean, as in intervals.t_upper (J)';
COMMENT ON COLUMN campaigns.mean_power_w IS 'mean over the cycles of total energy / window (W)';
COMMENT ON COLUMN campaigns.mean_power_w_t_lower IS 'lower bound of that mean, as in intervals.t_lower (W)';
COMMENT ON COLUMN campaigns.mean_power_w_t_upper IS 'upper bound of that mean, as in intervals.t_upper (W)';

CREATE VIEW failed_campaigns AS
SELECT
    study,
    arg_max(experiment, failed_at) AS experiment,
    measurement_config_hash,
    arg_max(backend, failed_at) AS backend,
    arg_max(model, failed_at) AS model,
    arg_max(dtype, failed_at) AS dtype,
    arg_max(batch_size, failed_at) AS batch_size,
    count(*) AS n_failed,
    min(failed_at) AS first_failed,
    max(failed_at) AS last_failed,
    arg_max(error_class, failed_at) AS last_error_class,
    arg_max(exit_code, failed_at) AS last_exit_code,
    arg_max(message, failed_at) AS last_message
FROM standing_failures AS failed
WHERE NOT EXISTS (
    FROM campaign_groups
    WHERE campaign_groups.measurement_config_hash = failed.measurement_config_hash
        AND campaign_groups.study IS NOT DISTINCT FROM failed.study
)
GROUP BY study, measurement_config_hash;
COMMENT ON VIEW failed_campaigns IS
    'Configurations of a study that only failed: they have no result at all, so that campaigns does not have them.';
COMMENT ON COLUMN failed_campaigns.measurement_config_hash IS 'names the configuration, 16 hex digits; NULL: invalid ones, together';
COMMENT ON COLUMN failed_campaigns.n_failed IS 'jobs that failed';
COMMENT ON COLUMN failed_campaigns.first_failed IS 'when the first of them failed';
COMMENT ON COLUMN failed_campaigns.last_failed IS 'when the last of them failed';
COMMENT ON COLUMN failed_campaigns.last_error_class IS 'class name of the last error, or TimedOut, Killed';
COMMENT ON COLUMN failed_campaigns.last_exit_code IS 'exit code of the last job';
COMMENT ON COLUMN failed_campaigns.last_message IS 'what went wrong in the last job';

CREATE VIEW studies AS
WITH measured AS (
    SELECT
        study,
        count(DISTINCT measurement_config_hash) AS n_configurations,
        count(*) AS n_campaigns,
        coalesce(sum(n_cycles) FILTER (NOT is_simulated), 0)::BIGINT AS n_cycles,
        sum(n_invalid)::BIGINT AS n_invalid,
        sum(n_superseded)::BIGINT AS n_superseded,
        coalesce(sum(n_cycles) FILTER (is_simulated), 0)::BIGINT AS n_simulated,
        list_sort(list(DISTINCT backend)) AS backends,
        list_sort(list(DISTINCT model) FILTER (model IS NOT NULL)) AS models,
        list_sort(list(DISTINCT hardware)) AS hardware,
        min(first_start) AS first_start,
        max(last_end) AS last_end
    FROM campaign_groups
    GROUP BY study
),
failed AS (
    SELECT study, count(*) AS n_failed, max(failed_at) AS last_failed FROM standing_failures GROUP BY study
)
SELECT
    coalesce(measured.study, failed.study) AS study,
    coalesce(n_configurations, 0) AS n_configurations,
    coalesce(n_campaigns, 0) AS n_campaigns,
    coalesce(n_cycles, 0) AS n_cycles,
    coalesce(n_invalid, 0) AS n_invalid,
    coalesce(n_superseded, 0) AS n_superseded,
    coalesce(n_simulated, 0) AS n_simulated,
    coalesce(n_failed, 0) AS n_failed,
    backends,
    models,
    hardware,
    first_start,
    last_end,
    last_failed
FROM measured
FULL JOIN failed ON failed.study IS NOT DISTINCT FROM measured.study;
COMMENT ON VIEW studies IS 'What there is: one study per row, those that only failed as well.';
COMMENT ON COLUMN studies.study IS 'name of the study; NULL: runs without one, together';
COMMENT ON COLUMN studies.n_configurations IS 'configurations that have a result';
COMMENT ON COLUMN studies.n_campaigns IS 'campaigns, those on simulated GPUs as well';
COMMENT ON COLUMN studies.n_cycles IS 'cycles that count: neither superseded nor invalid nor simulated';
COMMENT ON COLUMN studies.n_simulated IS 'valid cycles on simulated GPUs, which do not count';
COMMENT ON COLUMN studies.n_failed IS 'jobs that failed and have no result';
COMMENT ON COLUMN studies.backends IS 'of its campaigns';
COMMENT ON COLUMN studies.models IS 'of its campaigns';
COMMENT ON COLUMN studies.hardware IS 'of its campaigns';
COMMENT ON COLUMN studies.last_failed IS 'when the last of those jobs failed';
-- Settings that have no column of their own.

CREATE MACRO campaigns_by(field) AS TABLE
SELECT effective_config ->> ('$.' || field) AS value, campaigns.*
FROM experiments
-- One run of each campaign, for all of them have the same configuration.
SEMI JOIN (SELECT max(experiment_key) AS experiment_key FROM experiments GROUP BY campaign_id) USING (experiment_key)
JOIN campaigns USING (campaign_id);
COMMENT ON MACRO TABLE campaigns_by IS
    'campaigns_by(''workload.n_prompts''): as campaigns, with the value of any field of the configuration, as text, in the column value; NULL where there is no such field.';
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
COMMENT ON VIEW energy IS 'Energy and power: one metric of one campaign per row, with mean and both intervals.';

CREATE VIEW throughput AS SELECT * FROM campaign_intervals WHERE unit IN ('tokens/s', 'tokens', 's');
COMMENT ON VIEW throughput IS 'Rates, tokens and windows: one metric of one campaign per row, with mean and both intervals.';

CREATE VIEW latency AS SELECT * FROM campaign_intervals WHERE unit = 'ms';
COMMENT ON VIEW latency IS 'TTFT, ITL, TPOT and e2e: one metric of one campaign per row, with mean and both intervals.';
-- Prices and the grid's carbon are the asker's to give. What is not given is not known, so the figure is NULL, never 0.
-- Bounds are the metric's own ones in other units: time per token falls as the rate rises, so its bounds swap places.

CREATE MACRO cost(price_per_gpu_hour := NULL, price_per_kwh := NULL, pue := NULL) AS TABLE
WITH used AS (
    SELECT
        *,
        -- CPUs have no GPU hours; and a rate that may be 0 sets no limit to the time.
        nullif(gpu_count, 0) * 1e6 / 3600 AS gpus,
        gpus / nullif(output_tokens_per_second, 0) AS gpu_hours,
        gpus / CASE WHEN output_tokens_per_second_t_upper > 0 THEN output_tokens_per_second_t_upper END AS gpu_hours_t_lower,
        gpus / CASE WHEN output_tokens_per_second_t_lower > 0 THEN output_tokens_per_second_t_lower END AS gpu_hours_t_upper,
        energy_per_output_token_j * 1e6 / 3.6e6 * pue::DOUBLE AS kwh,
        energy_per_output_token_j_t_lower * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_t_lower,
        energy_per_output_token_j_t_upper * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_t_upper
    FROM campaigns
)
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    model,
    dtype,
    batch_size,
    hardware,
    gpu_count,
    n_cycles,
    gpu_hours AS gpu_hours_per_million_output_tokens,
    kwh AS kwh_per_million_output_tokens,
    gpu_hours * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens,
    gpu_hours_t_lower * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens_t_lower,
    gpu_hours_t_upper * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens_t_upper,
    kwh * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens,
    kwh_t_lower * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens_t_lower,
    kwh_t_upper * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens_t_upper,
    gpu_cost_per_million_output_tokens + energy_cost_per_million_output_tokens AS cost_per_million_output_tokens,
    -- Both intervals hold at once at least as often as 1 - 2 x (1 - confidence), whatever ties the two together.
    gpu_cost_per_million_output_tokens_t_lower + energy_cost_per_million_output_tokens_t_lower
        AS cost_per_million_output_tokens_lower,
    gpu_cost_per_million_output_tokens_t_upper + energy_cost_per_million_output_tokens_t_upper
        AS cost_per_million_output_tokens_upper
FROM used;
COMMENT ON MACRO TABLE cost IS
    'cost(price_per_gpu_hour := , price_per_kwh := , pue := ): cost of a million output tokens in the currency of the prices, by campaign, for the measured window. *_t_lower and *_t_upper are the interval of the rate or of the energy in that currency; cost_* is the sum of both, and its bounds, the sums of theirs, hold in at least 90 % where each holds in 95 %. A price that is not given makes its figures NULL, and GPU hours of CPUs are NULL.';

CREATE MACRO carbon(gco2_per_kwh := NULL, pue := NULL) AS TABLE
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    model,
    dtype,
    batch_size,
    hardware,
    gpu_count,
    n_cycles,
    energy_per_output_token_j * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_per_million_output_tokens,
    kwh_per_million_output_tokens * gco2_per_kwh::DOUBLE AS gco2_per_million_output_tokens,
    energy_per_output_token_j_t_lower * 1e6 / 3.6e6 * pue::DOUBLE * gco2_per_kwh::DOUBLE
        AS gco2_per_million_output_tokens_t_lower,
    energy_per_output_token_j_t_upper * 1e6 / 3.6e6 * pue::DOUBLE * gco2_per_kwh::DOUBLE
        AS gco2_per_million_output_tokens_t_upper
FROM campaigns;
COMMENT ON MACRO TABLE carbon IS
    'carbon(gco2_per_kwh := , pue := ): CO2 of the energy of a million output tokens (g), by campaign, with the interval of the energy; what is not given makes it NULL. Of running alone: making the hardware is not in it.';
-- What can be chosen from. Only campaigns that did the same work are held against each other.

CREATE VIEW pareto_front AS
WITH found AS (
    SELECT
        work_id,
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
        energy_per_output_token_j,
        output_tokens_per_second,
        ttft_mean_ms,
        count(*) OVER (PARTITION BY work_id) AS n_compared,
        -- Beaten by none: with less energy than all that are faster, or as fast and come before it for their energy.
        output_tokens_per_second IS NOT NULL
            AND coalesce(energy_per_output_token_j < min(energy_per_output_token_j) OVER faster, true)
            AS on_throughput_front,
        ttft_mean_ms IS NOT NULL
            AND coalesce(energy_per_output_token_j < min(energy_per_output_token_j) OVER sooner, true)
            AS on_ttft_front
    FROM campaigns
    WHERE work_id IS NOT NULL AND energy_per_output_token_j IS NOT NULL
    WINDOW
        faster AS (
            PARTITION BY work_id ORDER BY output_tokens_per_second DESC NULLS LAST, energy_per_output_token_j
            GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ),
        sooner AS (
            PARTITION BY work_id ORDER BY ttft_mean_ms NULLS LAST, energy_per_output_token_j
            GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
)
SELECT * FROM found WHERE on_throughput_front OR on_ttft_front;
COMMENT ON VIEW pareto_front IS
    'Campaigns that none with the same work beats in both energy per output token and output tokens/s, or in both energy and TTFT; by their means.';
COMMENT ON COLUMN pareto_front.work_id IS 'those with the same are held against each other: see campaign_groups';
COMMENT ON COLUMN pareto_front.energy_per_output_token_j IS 'mean over the cycles of total energy / output tokens (J/token)';
COMMENT ON COLUMN pareto_front.output_tokens_per_second IS 'mean over the cycles of output tokens / window (tokens/s)';
COMMENT ON COLUMN pareto_front.ttft_mean_ms IS 'mean over the cycles of their mean time from arrival to first output token (ms)';
COMMENT ON COLUMN pareto_front.n_compared IS 'campaigns with this work and a measured energy, itself included';
COMMENT ON COLUMN pareto_front.on_throughput_front IS 'none has both lower energy per output token and more output tokens/s';
COMMENT ON COLUMN pareto_front.on_ttft_front IS 'none has both lower energy per output token and a lower TTFT';
-- What was seen, what failed and what was left out.

CREATE VIEW warning_counts AS
WITH counted AS (
    SELECT code, campaign_id, count(*) AS n_warned
    FROM (
        SELECT DISTINCT code, campaign_id, experiment_key
        FROM warnings
        JOIN cycles USING (experiment_id)
    )
    GROUP BY code, campaign_id
)
SELECT code, study, campaign_id, experiment, backend, n_warned, n_cycles
FROM counted
JOIN campaign_groups USING (campaign_id);
COMMENT ON VIEW warning_counts IS 'How many of a campaign''s cycles have a warning: one code of one campaign per row.';
COMMENT ON COLUMN warning_counts.code IS 'what kind; NULL: texts without a code';
COMMENT ON COLUMN warning_counts.n_warned IS 'cycles that count and have it';

CREATE VIEW failure_summary AS
SELECT
    study,
    measurement_config_hash,
    error_class,
    exit_code,
    arg_max(experiment, failed_at) AS experiment,
    arg_max(backend, failed_at) AS backend,
    arg_max(model, failed_at) AS model,
    arg_max(batch_size, failed_at) AS batch_size,
    count(*) AS n_failed,
    max(failed_at) AS last_failed,
    arg_max(message, failed_at) AS last_message,
    arg_max(advice, failed_at) AS last_advice
FROM standing_failures
GROUP BY study, measurement_config_hash, error_class, exit_code;
COMMENT ON VIEW failure_summary IS 'Jobs that failed and have no result, counted by study, configuration and reason.';
COMMENT ON COLUMN failure_summary.n_failed IS 'jobs that failed so';
COMMENT ON COLUMN failure_summary.last_failed IS 'when the last of them failed';
COMMENT ON COLUMN failure_summary.last_message IS 'what went wrong in the last one';
COMMENT ON COLUMN failure_summary.last_advice IS 'what to do about the last one';

CREATE VIEW invalid_runs AS
SELECT
    experiment_id,
    campaign_id,
    study,
    experiment,
    cycle,
    attempt,
    backend,
    model,
    hardware,
    start_time,
    superseded,
    is_simulated,
    unnest(CASE WHEN len(invalid_reasons) > 0 THEN invalid_reasons ELSE [NULL] END) AS reason,
    directory
FROM experiments
WHERE is_invalid;
COMMENT ON VIEW invalid_runs IS 'Runs that stay out of every interval because they are invalid: one reason of one run per row.';
COMMENT ON COLUMN invalid_runs.reason IS 'code of the reason; NULL: none is recorded';
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
