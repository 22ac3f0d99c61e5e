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
