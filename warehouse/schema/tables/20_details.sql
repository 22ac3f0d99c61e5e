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
    itl_ms DOUBLE[],
    lag_ms DOUBLE,
    cached_input_tokens INTEGER,
    delivery_tokens INTEGER[]
);
COMMENT ON TABLE requests IS 'One request in the measured window per row.';
COMMENT ON COLUMN requests.experiment_key IS 'the experiment it belongs to: JOIN experiments USING (experiment_key)';
COMMENT ON COLUMN requests.process_index IS 'rank of the process that served it';
COMMENT ON COLUMN requests.request_index IS 'number of the request in its process';
COMMENT ON COLUMN requests.input_tokens IS 'input tokens (tokens)';
COMMENT ON COLUMN requests.output_tokens IS 'output tokens (tokens)';
COMMENT ON COLUMN requests.finish_reason IS 'why generation ended';
COMMENT ON COLUMN requests.output_sha256 IS 'digest of the output ids';
COMMENT ON COLUMN requests.arrival_s IS 'arrival after the window opened; in an open loop when it was due (s)';
COMMENT ON COLUMN requests.ttft_ms IS 'arrival to first output token (ms)';
COMMENT ON COLUMN requests.e2e_ms IS 'arrival to last token (ms)';
COMMENT ON COLUMN requests.queue_ms IS 'time in the backend''s queue (ms)';
COMMENT ON COLUMN requests.itl_ms IS 'every gap between deliveries (ms)';
COMMENT ON COLUMN requests.lag_ms IS 'open loop: how much later than due it was handed over; counted in ttft_ms and e2e_ms (ms)';
COMMENT ON COLUMN requests.cached_input_tokens IS 'input tokens served from a cache (tokens)';
COMMENT ON COLUMN requests.delivery_tokens IS 'output tokens in each delivery; NULL: one in each, or not measured (tokens)';

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
