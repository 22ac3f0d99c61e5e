-- Prices and the grid's carbon are the asker's to give. What is not given is not known, so the figure is NULL, never 0.
-- Bounds are the metric's own ones in other units: time per token falls as the rate rises, so its bounds swap places.

CREATE MACRO cost(price_per_gpu_hour := NULL, price_per_kwh := NULL, pue := NULL) AS TABLE
WITH used AS (
    SELECT
        *,
        -- CPUs have no GPU hours; and a rate that may be 0 sets no limit to the time.
        nullif(gpu_count, 0) * 1e6 / 3600 AS gpus,
        gpus / nullif(output_tokens_per_second, 0) AS gpu_hours,
        gpus / CASE WHEN output_tokens_per_second_t_upper > 0 THEN output_tokens_per_second_t_upper END AS gpu_hours_t_lower,
        gpus / CASE WHEN output_tokens_per_second_t_lower > 0 THEN output_tokens_per_second_t_lower END AS gpu_hours_t_upper,
        energy_per_output_token_j * 1e6 / 3.6e6 * pue::DOUBLE AS kwh,
        energy_per_output_token_j_t_lower * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_t_lower,
        energy_per_output_token_j_t_upper * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_t_upper
    FROM campaigns
)
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    model,
    dtype,
    batch_size,
    hardware,
    gpu_count,
    n_cycles,
    gpu_hours AS gpu_hours_per_million_output_tokens,
    kwh AS kwh_per_million_output_tokens,
    gpu_hours * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens,
    gpu_hours_t_lower * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens_t_lower,
    gpu_hours_t_upper * price_per_gpu_hour::DOUBLE AS gpu_cost_per_million_output_tokens_t_upper,
    kwh * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens,
    kwh_t_lower * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens_t_lower,
    kwh_t_upper * price_per_kwh::DOUBLE AS energy_cost_per_million_output_tokens_t_upper,
    gpu_cost_per_million_output_tokens + energy_cost_per_million_output_tokens AS cost_per_million_output_tokens,
    -- Both intervals hold at once at least as often as 1 - 2 x (1 - confidence), whatever ties the two together.
    gpu_cost_per_million_output_tokens_t_lower + energy_cost_per_million_output_tokens_t_lower
        AS cost_per_million_output_tokens_lower,
    gpu_cost_per_million_output_tokens_t_upper + energy_cost_per_million_output_tokens_t_upper
        AS cost_per_million_output_tokens_upper
FROM used;
COMMENT ON MACRO TABLE cost IS
    'cost(price_per_gpu_hour := , price_per_kwh := , pue := ): cost of a million output tokens in the currency of the prices, by campaign, for the measured window. *_t_lower and *_t_upper are the interval of the rate or of the energy in that currency; cost_* is the sum of both, and its bounds, the sums of theirs, hold in at least 90 % where each holds in 95 %. A price that is not given makes its figures NULL, and GPU hours of CPUs are NULL.';

CREATE MACRO carbon(gco2_per_kwh := NULL, pue := NULL) AS TABLE
SELECT
    campaign_id,
    study,
    experiment,
    backend,
    model,
    dtype,
    batch_size,
    hardware,
    gpu_count,
    n_cycles,
    energy_per_output_token_j * 1e6 / 3.6e6 * pue::DOUBLE AS kwh_per_million_output_tokens,
    kwh_per_million_output_tokens * gco2_per_kwh::DOUBLE AS gco2_per_million_output_tokens,
    energy_per_output_token_j_t_lower * 1e6 / 3.6e6 * pue::DOUBLE * gco2_per_kwh::DOUBLE
        AS gco2_per_million_output_tokens_t_lower,
    energy_per_output_token_j_t_upper * 1e6 / 3.6e6 * pue::DOUBLE * gco2_per_kwh::DOUBLE
        AS gco2_per_million_output_tokens_t_upper
FROM campaigns;
COMMENT ON MACRO TABLE carbon IS
    'carbon(gco2_per_kwh := , pue := ): CO2 of the energy of a million output tokens (g), by campaign, with the interval of the energy; what is not given makes it NULL. Of running alone: making the hardware is not in it.';
