-- The tables of schema version 1 that later versions changed, and `meta`, as that release created them in SQLite.

CREATE TABLE meta (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY ("key")
);
CREATE TABLE turn (
    id TEXT NOT NULL,
    started_at DOUBLE NOT NULL,
    user TEXT NOT NULL,
    credential TEXT NOT NULL,
    model TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    context_window BIGINT NOT NULL,
    week_start BIGINT,
    input_tokens BIGINT,
    cached_tokens BIGINT,
    output_tokens BIGINT,
    reasoning_tokens BIGINT,
    cache_write_tokens BIGINT,
    cost_micro_usd BIGINT,
    transport TEXT NOT NULL,
    status TEXT NOT NULL,
    http_status BIGINT NOT NULL,
    first_byte_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    error_code TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX turn_by_status ON turn (status, started_at, id);
CREATE INDEX turn_by_time ON turn (started_at, id);
CREATE INDEX turn_by_user ON turn (user, started_at, id, input_tokens, output_tokens, cost_micro_usd);
CREATE TABLE turn_hour (
    user TEXT NOT NULL,
    hour BIGINT NOT NULL,
    credential TEXT NOT NULL,
    model TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    context_window BIGINT NOT NULL,
    week_start BIGINT NOT NULL,
    turns BIGINT NOT NULL,
    turns_without_usage BIGINT NOT NULL,
    turns_unpriced BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost_micro_usd BIGINT NOT NULL,
    PRIMARY KEY (user, hour, credential, model, service_tier, context_window, week_start)
)
 WITHOUT ROWID;
CREATE INDEX turn_hour_by_hour ON turn_hour (hour);
