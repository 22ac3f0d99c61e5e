-- 3 to 4: requests have lags, cached tokens and deliveries, runs goodput, memory and the energy of both phases. Only jobs that
-- know of arrivals have measured these, so only their directories are read again, by the next ingest.

UPDATE temp.old_ingested_directories SET signature = ''
WHERE kind = 'result' AND experiment_id IN (
    SELECT experiment_id FROM temp.old_experiments WHERE json_exists(effective_config, '$.workload.arrivals')
);
