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
    'the same where model, prompts, output lengths, arrivals, end token, temperature and methodology are; NULL: prompts not recorded';
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
