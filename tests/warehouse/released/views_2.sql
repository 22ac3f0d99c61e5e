-- What a campaign counts. Only the newest of a study's repeats of one cycle under the same conditions counts; without
-- a study every run is a cycle of its own.
CREATE OR REPLACE VIEW cycles AS
WITH labelled AS (
    SELECT
        *,
        CASE
            WHEN gpu_name IS NOT NULL THEN gpu_name
            WHEN coalesce(device, 'none') NOT IN ('none', 'cpu') THEN device
            ELSE concat_ws(', ', 'CPU', cpu_model)
        END AS hardware,
        coalesce(image_repo_digest, image_id) AS image,
        total_tokens / nullif(total_energy_j, 0) AS tokens_per_joule,
        coalesce(simulated, false) AS is_simulated,
        -- A simulated run is invalid for that alone; counted here as well, it would be told of twice.
        measurement_valid IS NOT DISTINCT FROM false
            AND NOT (is_simulated AND invalid_reasons = ['simulated_device']) AS is_invalid
    FROM experiments
),
ranked AS (
    SELECT
        *,
        study IS NOT NULL AND cycle IS NOT NULL AND row_number() OVER (
            PARTITION BY study, measurement_config_hash, cycle,
                hardware, gpu_count, image, driver_version, power_limits_w, model_commit, is_simulated
            ORDER BY is_invalid, start_time DESC, experiment_id DESC
        ) > 1 AS superseded
    FROM labelled
)
SELECT *, NOT (superseded OR is_invalid OR is_simulated) AS counts FROM ranked;
COMMENT ON VIEW cycles IS 'experiments, with the labels that campaigns group by and whether they count';
COMMENT ON COLUMN cycles.hardware IS 'GPU model, or the device, or the CPU';
COMMENT ON COLUMN cycles.image IS 'registry digest of the image, else its content id';
COMMENT ON COLUMN cycles.tokens_per_joule IS 'total tokens / total energy (tokens/J)';
COMMENT ON COLUMN cycles.is_simulated IS 'some GPU is known to be a simulation';
COMMENT ON COLUMN cycles.is_invalid IS 'judged invalid, for another reason than that its GPUs are simulated';
COMMENT ON COLUMN cycles.superseded IS 'a newer run of the same cycle replaces it';
COMMENT ON COLUMN cycles.counts IS 'in default summaries: neither superseded nor invalid nor simulated';

-- The harness's rule: the trapezoid over the samples in the window; from the opening mark to the first of them, and
-- from the last to the closing mark, that sample's own power. Power is never interpolated across a mark, because a mark
-- usually coincides with a step of it: the samples around the window do not count, and without any in it there is no
-- energy.
CREATE OR REPLACE VIEW energy_from_samples_per_gpu AS
WITH placed AS (
    SELECT
        experiment_id,
        gpu_index,
        timestamp_s,
        gpu_power_w,
        window_from_s,
        window_to_s,
        gpu_power_w IS NOT NULL AND timestamp_s BETWEEN window_from_s AND window_to_s AS inside,
        lag(timestamp_s) OVER gpu AS before_s,
        lag(gpu_power_w) OVER gpu AS before_w
    FROM samples
    JOIN experiments USING (experiment_id)
    -- What has no power stands apart, so that it is nobody's neighbour.
    WINDOW gpu AS (
        PARTITION BY experiment_id, gpu_index, gpu_power_w IS NULL ORDER BY timestamp_s, gpu_power_w
    )
),
summed AS (
    SELECT
        experiment_id,
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
    GROUP BY experiment_id, gpu_index
),
stored AS (
    SELECT
        summed.*,
        coalesce(
            energy_breakdown ->> ('$.devices[' || gpu_index || '].gpu_uuid'),
            environment_snapshot ->> ('$.gpu_uuids[' || gpu_index || ']')
        ) AS gpu_uuid,
        (energy_breakdown ->> ('$.devices[' || gpu_index || '].integral_j'))::DOUBLE AS stored_integral_j,
        gpu_index < coalesce(json_array_length(energy_breakdown, '$.devices'), 0) AS is_stored
    FROM summed
    JOIN experiments USING (experiment_id)
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

CREATE OR REPLACE VIEW energy_from_samples AS
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
