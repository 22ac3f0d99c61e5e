-- What is stored of the campaigns in temp.touched, made true to their runs again. Their intervals are made anew by the
-- caller: they need more than SQL.

-- Only the newest valid run of a study's cycle under the same conditions counts; without a study every run is a cycle of
-- its own.
UPDATE experiments
SET superseded = ranked.superseded
FROM (
    SELECT
        experiment_key,
        study IS NOT NULL AND cycle IS NOT NULL AND row_number() OVER (
            PARTITION BY campaign_id, cycle ORDER BY is_invalid, start_time DESC, experiment_id DESC
        ) > 1 AS superseded
    FROM experiments
    SEMI JOIN temp.touched USING (campaign_id)
) AS ranked
WHERE ranked.experiment_key = experiments.experiment_key AND ranked.superseded <> experiments.superseded;

DELETE FROM intervals WHERE campaign_id IN (SELECT campaign_id FROM temp.touched);
DELETE FROM campaign_groups WHERE campaign_id IN (SELECT campaign_id FROM temp.touched);

INSERT INTO campaign_groups BY NAME
SELECT
    campaign_id,
    any_value(study) AS study,
    arg_max(experiment, start_time) AS experiment,
    any_value(measurement_config_hash) AS measurement_config_hash,
    arg_max(work_id, start_time) AS work_id,
    any_value(hardware) AS hardware,
    any_value(gpu_count) AS gpu_count,
    any_value(image) AS image,
    any_value(driver_version) AS driver_version,
    any_value(power_limits_w) AS power_limits_w,
    any_value(model_commit) AS model_commit,
    any_value(is_simulated) AS is_simulated,
    arg_max(backend, start_time) AS backend,
    arg_max(model, start_time) AS model,
    arg_max(dtype, start_time) AS dtype,
    arg_max(batch_size, start_time) AS batch_size,
    arg_max(num_processes, start_time) AS num_processes,
    arg_max(gpus_per_process, start_time) AS gpus_per_process,
    CASE WHEN count(DISTINCT placement) > 1 THEN 'mixed' ELSE any_value(placement) END AS placement,
    count(*) FILTER (is_cycle) AS n_cycles,
    count(*) FILTER (is_invalid AND NOT superseded) AS n_invalid,
    count(*) FILTER (superseded) AS n_superseded,
    count(energy_bound_ratio) FILTER (is_cycle) AS n_energy_bounds,
    max(energy_bound_ratio) FILTER (is_cycle) AS largest_energy_bound_ratio,
    list_sort(list_distinct(flatten(list(gpu_uuids) FILTER (is_cycle)))) AS gpu_uuids,
    count(DISTINCT list_sort(gpu_uuids)) FILTER (is_cycle) AS n_gpu_sets,
    min(start_time) AS first_start,
    max(end_time) AS last_end
FROM (
    SELECT
        *,
        NOT (superseded OR is_invalid) AS is_cycle,
        energy_bound_j / nullif(total_energy_j, 0) AS energy_bound_ratio
    FROM experiments
    SEMI JOIN temp.touched USING (campaign_id)
)
GROUP BY campaign_id;
