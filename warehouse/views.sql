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
        total_tokens / nullif(total_energy_j, 0) AS tokens_per_joule
    FROM experiments
)
SELECT
    *,
    study IS NOT NULL AND cycle IS NOT NULL AND row_number() OVER (
        PARTITION BY study, measurement_config_hash, cycle,
            hardware, gpu_count, image, driver_version, power_limits_w, model_commit
        ORDER BY measurement_valid IS NOT DISTINCT FROM false, start_time DESC, experiment_id DESC
    ) > 1 AS superseded
FROM labelled;
COMMENT ON VIEW cycles IS 'experiments, with the labels that campaigns group by and whether a newer run replaces it';
