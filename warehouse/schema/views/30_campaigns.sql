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
        max(CASE WHEN metric = 'goodput_requests_per_second' THEN mean END) AS goodput_requests_per_second,
        max(CASE WHEN metric = 'goodput_requests_per_second' THEN t_lower END) AS goodput_requests_per_second_t_lower,
        max(CASE WHEN metric = 'goodput_requests_per_second' THEN t_upper END) AS goodput_requests_per_second_t_upper,
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
COMMENT ON COLUMN campaigns.goodput_requests_per_second IS
    'mean over the cycles of requests within all limits of measurement.limits / window; NULL: no limit was set (requests/s)';
COMMENT ON COLUMN campaigns.goodput_requests_per_second_t_lower IS 'lower bound of that mean, as in intervals.t_lower (requests/s)';
COMMENT ON COLUMN campaigns.goodput_requests_per_second_t_upper IS 'upper bound of that mean, as in intervals.t_upper (requests/s)';
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
