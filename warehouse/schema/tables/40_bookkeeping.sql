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
