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
