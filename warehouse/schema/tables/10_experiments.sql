-- One finished cycle per row. A number carries its unit in its name where it has one; NULL is not measured.
-- No foreign keys: DuckDB cannot delete a parent and its children in one transaction, which replacing needs.

CREATE TABLE experiments (
    experiment_key INTEGER,
    experiment_id VARCHAR NOT NULL UNIQUE,
    directory VARCHAR NOT NULL,
    schema_version VARCHAR NOT NULL,
    measurement_config_hash VARCHAR NOT NULL,
    campaign_id VARCHAR NOT NULL,
    work_id VARCHAR,
    study VARCHAR,
    experiment VARCHAR,
    cycle INTEGER,
    block VARCHAR,
    attempt INTEGER,
    placement VARCHAR,
    job_order VARCHAR,
    order_seed BIGINT,
    position INTEGER,
    n_neighbours INTEGER,
    adaptive_metric VARCHAR,
    adaptive_pilot_s DOUBLE,
    adaptive_pilot_cycles INTEGER,
    backend VARCHAR NOT NULL,
    model VARCHAR,
    model_commit VARCHAR,
    dtype VARCHAR,
    batch_size INTEGER,
    num_processes INTEGER,
    gpus_per_process INTEGER,
    measurement_methodology VARCHAR NOT NULL,
    warmup_excluded_requests BIGINT,
    start_time TIMESTAMPTZ NOT NULL,
    end_time TIMESTAMPTZ NOT NULL,
    total_inference_time_sec DOUBLE NOT NULL,
    window_from_s DOUBLE NOT NULL,
    window_to_s DOUBLE NOT NULL,
    total_tokens BIGINT NOT NULL,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cached_input_tokens BIGINT,
    passes INTEGER,
    output_tokens_per_second DOUBLE,
    total_tokens_per_second DOUBLE,
    avg_tokens_per_second DOUBLE NOT NULL,
    energy_source VARCHAR,
    total_energy_j DOUBLE,
    energy_per_output_token_j DOUBLE,
    avg_energy_per_token_j DOUBLE,
    energy_adjusted_j DOUBLE,
    energy_bound_j DOUBLE,
    energy_counter_j DOUBLE,
    energy_counter_bound_j DOUBLE,
    energy_integral_j DOUBLE,
    energy_integral_bound_j DOUBLE,
    energy_update_period_s DOUBLE,
    energy_per_device_j DOUBLE[],
    baseline_power_w DOUBLE,
    baseline_power_before_w DOUBLE,
    baseline_power_after_w DOUBLE,
    max_temperature_c DOUBLE,
    throttle_duration_s DOUBLE,
    throttle_reasons VARCHAR[],
    sm_clock_mean_mhz DOUBLE,
    cool_down_waited_s DOUBLE,
    total_flops DOUBLE,
    ttft_mean_ms DOUBLE,
    ttft_p50_ms DOUBLE,
    ttft_p95_ms DOUBLE,
    ttft_p99_ms DOUBLE,
    ttft_min_ms DOUBLE,
    ttft_max_ms DOUBLE,
    ttft_samples BIGINT,
    itl_mean_ms DOUBLE,
    itl_p50_ms DOUBLE,
    itl_p95_ms DOUBLE,
    itl_p99_ms DOUBLE,
    itl_min_ms DOUBLE,
    itl_max_ms DOUBLE,
    itl_samples BIGINT,
    tpot_mean_ms DOUBLE,
    tpot_p50_ms DOUBLE,
    tpot_p95_ms DOUBLE,
    e2e_mean_ms DOUBLE,
    tokens_per_delivery_mean DOUBLE,
    goodput_requests_per_second DOUBLE,
    goodput_fraction DOUBLE,
    schedule_lag_p50_ms DOUBLE,
    schedule_lag_p99_ms DOUBLE,
    padding_fraction DOUBLE,
    batch_efficiency DOUBLE,
    kv_cache_hit_rate DOUBLE,
    weights_mb DOUBLE,
    peak_memory_mb DOUBLE,
    kv_cache_mb DOUBLE,
    prefill_energy_j DOUBLE,
    decode_energy_j DOUBLE,
    phase_energy_bound_j DOUBLE,
    phase_energy_note VARCHAR,
    mixed_phase_fraction DOUBLE,
    warmup_converged BOOLEAN,
    measurement_valid BOOLEAN,
    invalid_reasons VARCHAR[] NOT NULL,
    reproducibility_notes VARCHAR,
    prompts_sha256 VARCHAR,
    device VARCHAR,
    cpu_model VARCHAR,
    gpu_name VARCHAR,
    gpu_count INTEGER,
    gpu_uuids VARCHAR[],
    simulated BOOLEAN,
    driver_version VARCHAR,
    power_limits_w DOUBLE[],
    image_name VARCHAR,
    image_id VARCHAR,
    image_repo_digest VARCHAR,
    git_revision VARCHAR,
    launcher VARCHAR,
    node VARCHAR,
    pod VARCHAR,
    hardware VARCHAR NOT NULL,
    image VARCHAR,
    is_simulated BOOLEAN NOT NULL,
    is_invalid BOOLEAN NOT NULL,
    superseded BOOLEAN NOT NULL,
    effective_config JSON NOT NULL,
    environment_snapshot JSON,
    warmup_result JSON,
    energy_breakdown JSON,
    thermal_throttle JSON,
    aggregation JSON,
    scheduling JSON,
    extended_metrics JSON,
    multi_gpu JSON,
    unknown_fields JSON,
    PRIMARY KEY (experiment_key)
);
COMMENT ON TABLE experiments IS 'One finished cycle per row, valid or not; NULL is not measured.';
COMMENT ON COLUMN experiments.experiment_key IS 'what requests and samples call it; given anew when it is ingested anew';
COMMENT ON COLUMN experiments.experiment_id IS 'names one cycle''s result';
COMMENT ON COLUMN experiments.directory IS 'where the result was ingested from, absolute';
COMMENT ON COLUMN experiments.schema_version IS 'version of result.json';
COMMENT ON COLUMN experiments.measurement_config_hash IS 'names the configuration, 16 hex digits';
COMMENT ON COLUMN experiments.campaign_id IS 'the group that its intervals are over: see campaign_groups';
COMMENT ON COLUMN experiments.work_id IS
    'the same where model, prompts, output lengths, arrivals, end token, temperature and methodology are; NULL: prompts not recorded';
COMMENT ON COLUMN experiments.study IS 'name of the study';
COMMENT ON COLUMN experiments.experiment IS 'name in the study';
COMMENT ON COLUMN experiments.cycle IS 'number of the repetition in its study, from 1';
COMMENT ON COLUMN experiments.block IS 'block (cycle and GPU set) it ran in';
COMMENT ON COLUMN experiments.attempt IS 'number of the try at this cycle, from 1';
COMMENT ON COLUMN experiments.placement IS 'block: on the block''s GPU set; any: on whichever GPUs were free';
COMMENT ON COLUMN experiments.job_order IS 'how jobs were ordered: shuffled, interleaved or sequential';
COMMENT ON COLUMN experiments.order_seed IS 'seed of the order';
COMMENT ON COLUMN experiments.position IS 'place in its block''s order, from 1';
COMMENT ON COLUMN experiments.n_neighbours IS 'jobs seen on the host''s other GPUs while it ran; NULL: nobody looked';
COMMENT ON COLUMN experiments.adaptive_metric IS 'metric that the rule of an adaptive study looks at; NULL: cycles are fixed';
COMMENT ON COLUMN experiments.adaptive_pilot_s IS 'standard deviation of that metric in the pilot, in its unit';
COMMENT ON COLUMN experiments.adaptive_pilot_cycles IS 'cycles of the pilot';
COMMENT ON COLUMN experiments.backend IS 'pytorch, vllm, trt or stub';
COMMENT ON COLUMN experiments.model IS 'hub id, local path or builtin name';
COMMENT ON COLUMN experiments.model_commit IS 'commit of the model on the hub';
COMMENT ON COLUMN experiments.dtype IS 'as configured; auto is the model''s own';
COMMENT ON COLUMN experiments.batch_size IS 'requests in flight at once, as configured';
COMMENT ON COLUMN experiments.num_processes IS 'data parallel processes, as configured';
COMMENT ON COLUMN experiments.gpus_per_process IS 'tensor parallel width, as configured';
COMMENT ON COLUMN experiments.measurement_methodology IS 'total, steady_state or windowed';
COMMENT ON COLUMN experiments.warmup_excluded_requests IS 'requests of the warm-up';
COMMENT ON COLUMN experiments.start_time IS 'opening mark of the measured window';
COMMENT ON COLUMN experiments.end_time IS 'closing mark of the measured window';
COMMENT ON COLUMN experiments.total_inference_time_sec IS 'length of the measured window (s)';
COMMENT ON COLUMN experiments.window_from_s IS 'start of the part that the figures describe, after the window opened; 0 unless it is a part (s)';
COMMENT ON COLUMN experiments.window_to_s IS 'end of that part, after the window opened; the window''s length unless it is a part (s)';
COMMENT ON COLUMN experiments.total_tokens IS 'input + output tokens (tokens)';
COMMENT ON COLUMN experiments.input_tokens IS 'input tokens; padding never counts (tokens)';
COMMENT ON COLUMN experiments.output_tokens IS 'ids generated up to and including EOS (tokens)';
COMMENT ON COLUMN experiments.cached_input_tokens IS 'input tokens served from a cache (tokens)';
COMMENT ON COLUMN experiments.passes IS 'whole passes over the workload in the window';
COMMENT ON COLUMN experiments.output_tokens_per_second IS 'output tokens / window (tokens/s)';
COMMENT ON COLUMN experiments.total_tokens_per_second IS 'total tokens / window (tokens/s)';
COMMENT ON COLUMN experiments.avg_tokens_per_second IS 'mean over processes of their total-token rate; never a headline (tokens/s)';
COMMENT ON COLUMN experiments.energy_source IS 'nvml_counter, nvml_power or none';
COMMENT ON COLUMN experiments.total_energy_j IS 'all devices, common open to common close (J)';
COMMENT ON COLUMN experiments.energy_per_output_token_j IS 'headline: total energy / output tokens (J/token)';
COMMENT ON COLUMN experiments.avg_energy_per_token_j IS 'total energy / total tokens (J/token)';
COMMENT ON COLUMN experiments.energy_adjusted_j IS 'total energy - baseline x window, may be below 0 (J)';
COMMENT ON COLUMN experiments.energy_bound_j IS 'bound of the error of total_energy_j (J)';
COMMENT ON COLUMN experiments.energy_counter_j IS 'by the energy counters, all devices (J)';
COMMENT ON COLUMN experiments.energy_counter_bound_j IS 'bound of the error of energy_counter_j (J)';
COMMENT ON COLUMN experiments.energy_integral_j IS 'by the trapezoid integral of sampled power, all devices (J)';
COMMENT ON COLUMN experiments.energy_integral_bound_j IS 'bound of the error of energy_integral_j (J)';
COMMENT ON COLUMN experiments.energy_update_period_s IS 'time between two steps of the energy counter, longest of the devices (s)';
COMMENT ON COLUMN experiments.energy_per_device_j IS 'energy of each device (J)';
COMMENT ON COLUMN experiments.baseline_power_w IS 'sum of the devices'' idle means (W)';
COMMENT ON COLUMN experiments.baseline_power_before_w IS 'idle, before load (W)';
COMMENT ON COLUMN experiments.baseline_power_after_w IS 'idle with the model loaded, after the window (W)';
COMMENT ON COLUMN experiments.max_temperature_c IS 'highest of any device in the window (degrees C)';
COMMENT ON COLUMN experiments.throttle_duration_s IS 'of the device that was throttled longest (s)';
COMMENT ON COLUMN experiments.throttle_reasons IS 'why devices were slowed down in the window; empty: they were not';
COMMENT ON COLUMN experiments.sm_clock_mean_mhz IS 'mean in the window, mean over the devices that reported one (MHz)';
COMMENT ON COLUMN experiments.cool_down_waited_s IS 'time the job waited for the GPUs to cool before it began (s)';
COMMENT ON COLUMN experiments.total_flops IS 'arithmetic done, multiply-add counts 2 (FLOP)';
COMMENT ON COLUMN experiments.ttft_mean_ms IS 'arrival to first output token, mean (ms)';
COMMENT ON COLUMN experiments.ttft_p50_ms IS 'arrival to first output token, median (ms)';
COMMENT ON COLUMN experiments.ttft_p95_ms IS 'arrival to first output token, 95th percentile (ms)';
COMMENT ON COLUMN experiments.ttft_p99_ms IS 'arrival to first output token, 99th percentile (ms)';
COMMENT ON COLUMN experiments.ttft_min_ms IS 'arrival to first output token, lowest (ms)';
COMMENT ON COLUMN experiments.ttft_max_ms IS 'arrival to first output token, highest (ms)';
COMMENT ON COLUMN experiments.ttft_samples IS 'requests with a TTFT';
COMMENT ON COLUMN experiments.itl_mean_ms IS 'gap between deliveries, mean (ms)';
COMMENT ON COLUMN experiments.itl_p50_ms IS 'gap between deliveries, median (ms)';
COMMENT ON COLUMN experiments.itl_p95_ms IS 'gap between deliveries, 95th percentile (ms)';
COMMENT ON COLUMN experiments.itl_p99_ms IS 'gap between deliveries, 99th percentile (ms)';
COMMENT ON COLUMN experiments.itl_min_ms IS 'gap between deliveries, lowest (ms)';
COMMENT ON COLUMN experiments.itl_max_ms IS 'gap between deliveries, highest (ms)';
COMMENT ON COLUMN experiments.itl_samples IS 'gaps with an ITL';
COMMENT ON COLUMN experiments.tpot_mean_ms IS '(e2e - TTFT) / (output tokens - 1), mean over requests (ms)';
COMMENT ON COLUMN experiments.tpot_p50_ms IS '(e2e - TTFT) / (output tokens - 1), median over requests (ms)';
COMMENT ON COLUMN experiments.tpot_p95_ms IS '(e2e - TTFT) / (output tokens - 1), 95th percentile over requests (ms)';
COMMENT ON COLUMN experiments.e2e_mean_ms IS 'arrival to last token, mean over requests (ms)';
COMMENT ON COLUMN experiments.tokens_per_delivery_mean IS 'output tokens / deliveries of them';
COMMENT ON COLUMN experiments.goodput_requests_per_second IS
    'requests within all limits of measurement.limits / window; NULL: no limit was set (requests/s)';
COMMENT ON COLUMN experiments.goodput_fraction IS 'requests within all limits of measurement.limits / requests';
COMMENT ON COLUMN experiments.schedule_lag_p50_ms IS
    'open loop: how much later than due requests were handed over, median (ms)';
COMMENT ON COLUMN experiments.schedule_lag_p99_ms IS
    'open loop: how much later than due requests were handed over, 99th percentile (ms)';
COMMENT ON COLUMN experiments.padding_fraction IS 'padded positions / all prompt positions computed';
COMMENT ON COLUMN experiments.batch_efficiency IS
    'time integral of the running requests / (requests that could run at once x window)';
COMMENT ON COLUMN experiments.kv_cache_hit_rate IS 'input tokens served from a cache / input tokens';
COMMENT ON COLUMN experiments.weights_mb IS 'memory of the model''s weights, over all processes (MB, 10^6 bytes)';
COMMENT ON COLUMN experiments.peak_memory_mb IS
    'highest memory since load, as the backend says, over all processes (MB, 10^6 bytes)';
COMMENT ON COLUMN experiments.kv_cache_mb IS 'memory for keys and values, over all processes (MB, 10^6 bytes)';
COMMENT ON COLUMN experiments.prefill_energy_j IS
    'while every running request waits for its first token; NULL: not separable, or not measured (J)';
COMMENT ON COLUMN experiments.decode_energy_j IS
    'while every running request has had its first token; NULL: not separable, or not measured (J)';
COMMENT ON COLUMN experiments.phase_energy_bound_j IS 'bound of the error of prefill_energy_j and of decode_energy_j (J)';
COMMENT ON COLUMN experiments.phase_energy_note IS 'why the energy of the two is not separable';
COMMENT ON COLUMN experiments.mixed_phase_fraction IS
    'share of the busy time with prefill and decode at once; its energy is in neither';
COMMENT ON COLUMN experiments.warmup_converged IS 'throughput was steady before the window opened';
COMMENT ON COLUMN experiments.measurement_valid IS 'false: kept out of intervals; NULL: not judged';
COMMENT ON COLUMN experiments.invalid_reasons IS 'codes of why it is invalid';
COMMENT ON COLUMN experiments.reproducibility_notes IS 'as recorded';
COMMENT ON COLUMN experiments.prompts_sha256 IS 'digest of the rendered prompts'' token ids';
COMMENT ON COLUMN experiments.device IS 'device the model ran on, as the backend names it';
COMMENT ON COLUMN experiments.cpu_model IS 'CPU of the machine';
COMMENT ON COLUMN experiments.gpu_name IS 'model of the GPUs; several models joined with +';
COMMENT ON COLUMN experiments.gpu_count IS 'GPUs used; NULL is not recorded';
COMMENT ON COLUMN experiments.gpu_uuids IS 'UUIDs of the GPUs used';
COMMENT ON COLUMN experiments.simulated IS 'some GPU is a simulation, so that energy proves nothing; NULL is not recorded';
COMMENT ON COLUMN experiments.driver_version IS 'NVIDIA driver';
COMMENT ON COLUMN experiments.power_limits_w IS 'distinct power limits of the GPUs, ascending (W)';
COMMENT ON COLUMN experiments.image_name IS 'image reference; NULL for a local process';
COMMENT ON COLUMN experiments.image_id IS 'image content id';
COMMENT ON COLUMN experiments.image_repo_digest IS 'registry digest; NULL if never pushed';
COMMENT ON COLUMN experiments.git_revision IS 'git revision of joulehouse';
COMMENT ON COLUMN experiments.launcher IS 'local, docker or kubernetes';
COMMENT ON COLUMN experiments.node IS 'host name of the machine';
COMMENT ON COLUMN experiments.pod IS 'Kubernetes pod';
COMMENT ON COLUMN experiments.hardware IS 'GPU model, or the device, or the CPU';
COMMENT ON COLUMN experiments.image IS 'registry digest of the image, else its content id';
COMMENT ON COLUMN experiments.is_simulated IS 'some GPU is known to be a simulation';
COMMENT ON COLUMN experiments.is_invalid IS 'judged invalid, for another reason than that its GPUs are simulated';
COMMENT ON COLUMN experiments.superseded IS 'a newer run of the same cycle replaces it';
COMMENT ON COLUMN experiments.effective_config IS 'the whole configuration, e.g. effective_config->>''$.workload.n_prompts''';
COMMENT ON COLUMN experiments.environment_snapshot IS 'the whole environment as recorded, package versions included';
COMMENT ON COLUMN experiments.warmup_result IS 'the warm-up as recorded';
COMMENT ON COLUMN experiments.energy_breakdown IS 'both energy methods as recorded (J, W)';
COMMENT ON COLUMN experiments.thermal_throttle IS 'throttling as recorded (s, degrees C)';
COMMENT ON COLUMN experiments.aggregation IS 'how the processes were merged';
COMMENT ON COLUMN experiments.scheduling IS 'how it was scheduled, neighbours and adaptive rule included';
COMMENT ON COLUMN experiments.extended_metrics IS 'further efficiency figures as recorded';
COMMENT ON COLUMN experiments.multi_gpu IS 'energy over several devices as recorded (J)';
COMMENT ON COLUMN experiments.unknown_fields IS 'keys of the file that this joulehouse does not know, by their path; NULL: none';
