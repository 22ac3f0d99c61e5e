-- Settings that have no column of their own.

CREATE MACRO campaigns_by(field) AS TABLE
SELECT effective_config ->> ('$.' || field) AS value, campaigns.*
FROM experiments
-- One run of each campaign, for all of them have the same configuration.
SEMI JOIN (SELECT max(experiment_key) AS experiment_key FROM experiments GROUP BY campaign_id) USING (experiment_key)
JOIN campaigns USING (campaign_id);
COMMENT ON MACRO TABLE campaigns_by IS
    'campaigns_by(''workload.n_prompts''): as campaigns, with the value of any field of the configuration, as text, in the column value; NULL where there is no such field.';
