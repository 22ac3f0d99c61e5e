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
