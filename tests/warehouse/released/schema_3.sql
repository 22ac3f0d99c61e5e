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
    e2e_mean_ms DOUBLE,
    padding_fraction DOUBLE,
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
    'the same where model, prompts, output limit, end token, temperature and methodology are; NULL: prompts not recorded';
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
COMMENT ON COLUMN experiments.e2e_mean_ms IS 'arrival to last token, mean over requests (ms)';
COMMENT ON COLUMN experiments.padding_fraction IS 'padded positions / all prompt positions computed';
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
-- What belongs to an experiment, and jobs that failed.

CREATE TABLE process_results (
    experiment_id VARCHAR,
    process_index INTEGER CHECK (process_index >= 0),
    config_name VARCHAR NOT NULL,
    model_name VARCHAR NOT NULL,
    backend VARCHAR NOT NULL,
    gpu_id INTEGER,
    gpu_name VARCHAR,
    gpu_uuids VARCHAR[],
    start_time TIMESTAMPTZ NOT NULL,
    end_time TIMESTAMPTZ NOT NULL,
    total_inference_time_sec DOUBLE NOT NULL,
    total_prompts BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cached_input_tokens BIGINT,
    avg_tokens_per_second DOUBLE NOT NULL,
    idle_tail_s DOUBLE,
    total_energy_j DOUBLE,
    avg_power_w DOUBLE,
    energy_per_token_j DOUBLE,
    total_flops DOUBLE,
    flops_method VARCHAR,
    peak_memory_mb DOUBLE,
    PRIMARY KEY (experiment_id, process_index)
);
COMMENT ON TABLE process_results IS 'One process of one experiment per row.';
COMMENT ON COLUMN process_results.experiment_id IS 'the experiment it belongs to';
COMMENT ON COLUMN process_results.process_index IS 'rank of the process, from 0';
COMMENT ON COLUMN process_results.config_name IS 'name of the configuration as the process knew it';
COMMENT ON COLUMN process_results.model_name IS 'model as the process knew it';
COMMENT ON COLUMN process_results.backend IS 'pytorch, vllm, trt or stub';
COMMENT ON COLUMN process_results.gpu_id IS 'index of the first device; NULL on CPU';
COMMENT ON COLUMN process_results.gpu_name IS 'model of the GPU';
COMMENT ON COLUMN process_results.gpu_uuids IS 'UUIDs of the GPUs used';
COMMENT ON COLUMN process_results.start_time IS 'opening mark of this process';
COMMENT ON COLUMN process_results.end_time IS 'closing mark of this process';
COMMENT ON COLUMN process_results.total_inference_time_sec IS 'length of its window (s)';
COMMENT ON COLUMN process_results.total_prompts IS 'requests finished';
COMMENT ON COLUMN process_results.total_tokens IS 'input + output tokens (tokens)';
COMMENT ON COLUMN process_results.input_tokens IS 'input tokens (tokens)';
COMMENT ON COLUMN process_results.output_tokens IS 'output tokens (tokens)';
COMMENT ON COLUMN process_results.cached_input_tokens IS 'input tokens served from a cache (tokens)';
COMMENT ON COLUMN process_results.avg_tokens_per_second IS 'total tokens / its window (tokens/s)';
COMMENT ON COLUMN process_results.idle_tail_s IS 'waited for slower processes at the end; its energy counts (s)';
COMMENT ON COLUMN process_results.total_energy_j IS 'energy of its devices (J)';
COMMENT ON COLUMN process_results.avg_power_w IS 'mean power of its devices (W)';
COMMENT ON COLUMN process_results.energy_per_token_j IS 'per total token (J/token)';
COMMENT ON COLUMN process_results.total_flops IS 'arithmetic done, multiply-add counts 2 (FLOP)';
COMMENT ON COLUMN process_results.flops_method IS 'architecture or parameters_2N';
COMMENT ON COLUMN process_results.peak_memory_mb IS 'peak device memory, or process memory on CPU (MB, 10^6 bytes)';

-- No primary keys here: their indexes would make ingest several times slower. It looks for doubled rows itself.
CREATE TABLE requests (
    experiment_key INTEGER NOT NULL,
    process_index INTEGER NOT NULL,
    request_index INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    finish_reason VARCHAR,
    output_sha256 VARCHAR,
    arrival_s DOUBLE,
    ttft_ms DOUBLE,
    e2e_ms DOUBLE,
    queue_ms DOUBLE,
    itl_ms DOUBLE[]
);
COMMENT ON TABLE requests IS 'One request in the measured window per row.';
COMMENT ON COLUMN requests.experiment_key IS 'the experiment it belongs to: JOIN experiments USING (experiment_key)';
COMMENT ON COLUMN requests.process_index IS 'rank of the process that served it';
COMMENT ON COLUMN requests.request_index IS 'number of the request in its process';
COMMENT ON COLUMN requests.input_tokens IS 'input tokens (tokens)';
COMMENT ON COLUMN requests.output_tokens IS 'output tokens (tokens)';
COMMENT ON COLUMN requests.finish_reason IS 'why generation ended';
COMMENT ON COLUMN requests.output_sha256 IS 'digest of the output ids';
COMMENT ON COLUMN requests.arrival_s IS 'arrival after the window opened (s)';
COMMENT ON COLUMN requests.ttft_ms IS 'arrival to first output token (ms)';
COMMENT ON COLUMN requests.e2e_ms IS 'arrival to last token (ms)';
COMMENT ON COLUMN requests.queue_ms IS 'time in the backend''s queue (ms)';
COMMENT ON COLUMN requests.itl_ms IS 'every gap between deliveries (ms)';

-- Ingest refuses NaN, for it would spoil every sum. No function in a CHECK: after a crash DuckDB cannot replay it.
CREATE TABLE samples (
    experiment_key INTEGER NOT NULL,
    gpu_index INTEGER NOT NULL CHECK (gpu_index >= 0),
    timestamp_s DOUBLE NOT NULL,
    gpu_power_w DOUBLE,
    gpu_temperature_c DOUBLE
);
COMMENT ON TABLE samples IS 'One sample of one GPU per row: all in the measured window, and one on each side of it.';
COMMENT ON COLUMN samples.experiment_key IS 'the experiment it belongs to: JOIN experiments USING (experiment_key)';
COMMENT ON COLUMN samples.gpu_index IS 'place of the GPU among those of its job, from 0';
COMMENT ON COLUMN samples.timestamp_s IS 'time after the window opened, negative before (s)';
COMMENT ON COLUMN samples.gpu_power_w IS 'power (W)';
COMMENT ON COLUMN samples.gpu_temperature_c IS 'temperature (degrees C)';

CREATE TABLE warnings (
    experiment_id VARCHAR,
    warning_index INTEGER,
    code VARCHAR,
    message VARCHAR NOT NULL,
    PRIMARY KEY (experiment_id, warning_index)
);
COMMENT ON TABLE warnings IS 'Measurement warnings, in the order they were made.';
COMMENT ON COLUMN warnings.experiment_id IS 'the experiment it belongs to';
COMMENT ON COLUMN warnings.warning_index IS 'place in the result, from 0';
COMMENT ON COLUMN warnings.code IS 'what kind; NULL when the text has no code';
COMMENT ON COLUMN warnings.message IS 'what was seen and what to do';

CREATE TABLE failures (
    experiment_id VARCHAR,
    directory VARCHAR NOT NULL,
    measurement_config_hash VARCHAR,
    study VARCHAR,
    experiment VARCHAR,
    cycle INTEGER,
    attempt INTEGER,
    backend VARCHAR,
    model VARCHAR,
    dtype VARCHAR,
    batch_size INTEGER,
    error_class VARCHAR NOT NULL,
    exit_code INTEGER NOT NULL,
    message VARCHAR NOT NULL,
    advice VARCHAR NOT NULL,
    failed_at TIMESTAMPTZ NOT NULL,
    log_tail VARCHAR[] NOT NULL,
    config JSON,
    PRIMARY KEY (experiment_id)
);
COMMENT ON TABLE failures IS 'One failed job per row; a failure is data.';
COMMENT ON COLUMN failures.experiment_id IS 'names the job that failed';
COMMENT ON COLUMN failures.directory IS 'where the failure was ingested from, absolute';
COMMENT ON COLUMN failures.measurement_config_hash IS 'names the configuration; NULL if it was invalid';
COMMENT ON COLUMN failures.study IS 'name of the study';
COMMENT ON COLUMN failures.experiment IS 'name in the study';
COMMENT ON COLUMN failures.cycle IS 'number of the repetition in its study, from 1';
COMMENT ON COLUMN failures.attempt IS 'number of the try at this cycle, from 1';
COMMENT ON COLUMN failures.backend IS 'pytorch, vllm, trt or stub';
COMMENT ON COLUMN failures.model IS 'hub id, local path or builtin name';
COMMENT ON COLUMN failures.dtype IS 'as configured; auto is the model''s own';
COMMENT ON COLUMN failures.batch_size IS 'requests in flight at once, as configured';
COMMENT ON COLUMN failures.error_class IS 'class name of the error, or TimedOut, Killed';
COMMENT ON COLUMN failures.exit_code IS 'exit code of the job';
COMMENT ON COLUMN failures.message IS 'what went wrong';
COMMENT ON COLUMN failures.advice IS 'what to do';
COMMENT ON COLUMN failures.failed_at IS 'when it failed';
COMMENT ON COLUMN failures.log_tail IS 'last lines of the job''s log';
COMMENT ON COLUMN failures.config IS 'the configuration as it was given';
-- Cycles of one configuration under the same conditions, and intervals over them. Ingest keeps them true to experiments in
-- the transaction that changes those, so that whoever opens the database sees them.

CREATE TABLE campaign_groups (
    campaign_id VARCHAR,
    study VARCHAR,
    experiment VARCHAR,
    measurement_config_hash VARCHAR NOT NULL,
    work_id VARCHAR,
    hardware VARCHAR NOT NULL,
    gpu_count INTEGER,
    image VARCHAR,
    driver_version VARCHAR,
    power_limits_w DOUBLE[],
    model_commit VARCHAR,
    is_simulated BOOLEAN NOT NULL,
    backend VARCHAR NOT NULL,
    model VARCHAR,
    dtype VARCHAR,
    batch_size INTEGER,
    num_processes INTEGER,
    gpus_per_process INTEGER,
    placement VARCHAR,
    n_cycles INTEGER NOT NULL,
    n_invalid INTEGER NOT NULL,
    n_superseded INTEGER NOT NULL,
    n_energy_bounds INTEGER NOT NULL,
    largest_energy_bound_ratio DOUBLE,
    gpu_uuids VARCHAR[],
    n_gpu_sets INTEGER NOT NULL,
    first_start TIMESTAMPTZ NOT NULL,
    last_end TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (campaign_id)
);
COMMENT ON TABLE campaign_groups IS 'One configuration of one study under the same conditions per row; the view campaigns has its figures.';
COMMENT ON COLUMN campaign_groups.campaign_id IS 'digest of the nine conditions from study to is_simulated, 16 hex digits';
COMMENT ON COLUMN campaign_groups.study IS 'name of the study';
COMMENT ON COLUMN campaign_groups.experiment IS 'name in the study, of the newest run';
COMMENT ON COLUMN campaign_groups.measurement_config_hash IS 'names the configuration, 16 hex digits';
COMMENT ON COLUMN campaign_groups.work_id IS
    'the same where model, prompts, output limit, end token, temperature and methodology are; NULL: prompts not recorded';
COMMENT ON COLUMN campaign_groups.hardware IS 'GPU model, or the device, or the CPU';
COMMENT ON COLUMN campaign_groups.gpu_count IS 'GPUs used; NULL is not recorded';
COMMENT ON COLUMN campaign_groups.image IS 'registry digest of the image, else its content id';
COMMENT ON COLUMN campaign_groups.driver_version IS 'NVIDIA driver';
COMMENT ON COLUMN campaign_groups.power_limits_w IS 'distinct power limits of the GPUs, ascending (W)';
COMMENT ON COLUMN campaign_groups.model_commit IS 'commit of the model on the hub';
COMMENT ON COLUMN campaign_groups.is_simulated IS 'some GPU is known to be a simulation';
COMMENT ON COLUMN campaign_groups.backend IS 'pytorch, vllm, trt or stub';
COMMENT ON COLUMN campaign_groups.model IS 'hub id, local path or builtin name';
COMMENT ON COLUMN campaign_groups.dtype IS 'as configured; auto is the model''s own';
COMMENT ON COLUMN campaign_groups.batch_size IS 'requests in flight at once, as configured';
COMMENT ON COLUMN campaign_groups.num_processes IS 'data parallel processes, as configured';
COMMENT ON COLUMN campaign_groups.gpus_per_process IS 'tensor parallel width, as configured';
COMMENT ON COLUMN campaign_groups.placement IS 'block, any, or mixed; NULL is not recorded';
COMMENT ON COLUMN campaign_groups.n_cycles IS 'cycles that intervals are over: valid and not superseded';
COMMENT ON COLUMN campaign_groups.n_invalid IS 'runs left out because they are invalid for another reason than that GPUs are simulated';
COMMENT ON COLUMN campaign_groups.n_superseded IS 'runs left out because a newer run of their cycle replaces them';
COMMENT ON COLUMN campaign_groups.n_energy_bounds IS 'cycles with a bound of the meter''s error';
COMMENT ON COLUMN campaign_groups.largest_energy_bound_ratio IS 'largest bound of the meter''s error in a cycle / its energy';
COMMENT ON COLUMN campaign_groups.gpu_uuids IS 'UUIDs of all GPUs that its cycles ran on';
COMMENT ON COLUMN campaign_groups.n_gpu_sets IS 'different sets of GPUs that its cycles ran on';
COMMENT ON COLUMN campaign_groups.first_start IS 'when the first cycle''s window opened';
COMMENT ON COLUMN campaign_groups.last_end IS 'when the last cycle''s window closed';

CREATE TABLE intervals (
    campaign_id VARCHAR,
    metric VARCHAR,
    unit VARCHAR NOT NULL,
    n_samples INTEGER NOT NULL,
    mean DOUBLE NOT NULL,
    std DOUBLE NOT NULL,
    confidence DOUBLE NOT NULL,
    t_method VARCHAR CHECK (t_method IN ('student_t', 'stein')),
    t_lower DOUBLE,
    t_upper DOUBLE,
    percentile_lower DOUBLE,
    percentile_upper DOUBLE,
    expected_percentile_coverage DOUBLE,
    warning VARCHAR,
    PRIMARY KEY (campaign_id, metric)
);
COMMENT ON TABLE intervals IS 'Mean and confidence intervals of one metric over the cycles of one campaign per row.';
COMMENT ON COLUMN intervals.campaign_id IS 'the campaign: see campaign_groups';
COMMENT ON COLUMN intervals.metric IS 'column of runs; one number per cycle';
COMMENT ON COLUMN intervals.unit IS 'of mean, std and all bounds';
COMMENT ON COLUMN intervals.n_samples IS 'cycles in which it was measured';
COMMENT ON COLUMN intervals.mean IS 'mean over those cycles, in unit';
COMMENT ON COLUMN intervals.std IS 'standard deviation over those cycles, ddof 1; 0 for one cycle, in unit';
COMMENT ON COLUMN intervals.confidence IS 'nominal coverage of both intervals';
COMMENT ON COLUMN intervals.t_method IS
    'student_t; stein: an adaptive study''s stopping metric, with the spread and the degrees of freedom of its pilot; NULL: one cycle';
COMMENT ON COLUMN intervals.t_lower IS 'lower bound by t_method, in unit; NULL: one cycle';
COMMENT ON COLUMN intervals.t_upper IS 'upper bound by t_method, in unit; NULL: one cycle';
COMMENT ON COLUMN intervals.percentile_lower IS
    'lower bound by the percentile bootstrap, in unit; NULL: one cycle, or a metric that is a percentile itself';
COMMENT ON COLUMN intervals.percentile_upper IS
    'upper bound by the percentile bootstrap, in unit; NULL: one cycle, or a metric that is a percentile itself';
COMMENT ON COLUMN intervals.expected_percentile_coverage IS
    'how often a nominal 95 % percentile interval of so few cycles holds the true mean, for normal data; NULL above 10 cycles';
COMMENT ON COLUMN intervals.warning IS 'what is to be said of so few cycles; NULL: nothing';
-- What ingest knows of the directories.

CREATE TABLE ingested_directories (
    directory VARCHAR,
    kind VARCHAR NOT NULL CHECK (kind IN ('result', 'failure', 'duplicate')),
    experiment_id VARCHAR NOT NULL,
    signature VARCHAR NOT NULL,
    content_digest VARCHAR NOT NULL,
    ingested_at TIMESTAMPTZ NOT NULL,
    gone_since TIMESTAMPTZ,
    PRIMARY KEY (directory)
);
COMMENT ON TABLE ingested_directories IS 'Bookkeeping: what was read, so that it is read once.';
COMMENT ON COLUMN ingested_directories.directory IS 'absolute path, or s3://bucket/key';
COMMENT ON COLUMN ingested_directories.kind IS 'result, failure, or duplicate (same content as another directory)';
COMMENT ON COLUMN ingested_directories.experiment_id IS 'what it holds';
COMMENT ON COLUMN ingested_directories.signature IS 'times and sizes of the directory and its files; a change means: read again';
COMMENT ON COLUMN ingested_directories.content_digest IS 'digest of the result or failure and of the sidecars'' sizes; empty: read by an earlier version';
COMMENT ON COLUMN ingested_directories.ingested_at IS 'when it was read';
COMMENT ON COLUMN ingested_directories.gone_since IS 'when it was first not there any more; what it held stays until it is pruned';

CREATE TABLE quarantine (
    directory VARCHAR,
    reason VARCHAR NOT NULL,
    quarantined_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (directory)
);
COMMENT ON TABLE quarantine IS 'Directories that could not be taken; they are tried again at every ingest.';
COMMENT ON COLUMN quarantine.directory IS 'absolute path, or s3://bucket/key';
COMMENT ON COLUMN quarantine.reason IS 'what is wrong and what to do';
COMMENT ON COLUMN quarantine.quarantined_at IS 'when it was last tried';

CREATE TABLE warehouse_schema (version INTEGER NOT NULL, views_digest VARCHAR NOT NULL);
COMMENT ON TABLE warehouse_schema IS 'Version of these tables, one row.';
COMMENT ON COLUMN warehouse_schema.version IS 'raised with every change of a table';
COMMENT ON COLUMN warehouse_schema.views_digest IS 'digest of the views; where it differs from a joulehouse''s own they are made anew';
