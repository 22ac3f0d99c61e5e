-- 2 to 3: runs have a key and are named and judged where they are stored. What version 2 did not take from the files is
-- NULL until they are read again, which the next ingest does with all that are still there.

CREATE OR REPLACE TEMP TABLE old_experiments AS
SELECT
    row_number() OVER (ORDER BY start_time, experiment_id)::INTEGER AS experiment_key,
    *,
    CASE
        WHEN gpu_name IS NOT NULL THEN gpu_name
        WHEN device IS NULL THEN 'not recorded'
        WHEN device NOT IN ('none', 'cpu') THEN device
        ELSE concat_ws(', ', 'CPU', cpu_model)
    END AS hardware,
    coalesce(image_repo_digest, image_id) AS image,
    coalesce(simulated, false) AS is_simulated,
    measurement_valid IS NOT DISTINCT FROM false
        AND NOT (coalesce(simulated, false) AND invalid_reasons = ['simulated_device']) AS is_invalid,
    false AS superseded,
    ''::VARCHAR AS campaign_id,
    NULL::VARCHAR AS work_id
FROM temp.old_experiments;

CREATE OR REPLACE TEMP TABLE old_requests AS
SELECT experiment_key, old.* EXCLUDE (experiment_id)
FROM temp.old_requests AS old JOIN temp.old_experiments USING (experiment_id);

CREATE OR REPLACE TEMP TABLE old_samples AS
SELECT experiment_key, old.* EXCLUDE (experiment_id)
FROM temp.old_samples AS old JOIN temp.old_experiments USING (experiment_id);

-- Without a signature they are read again; without a digest what is read again cannot be in conflict with itself.
CREATE OR REPLACE TEMP TABLE old_ingested_directories AS
SELECT * EXCLUDE (content_sha256) REPLACE ('' AS signature), '' AS content_digest
FROM temp.old_ingested_directories
WHERE kind <> 'duplicate';
