CREATE TABLE affinity (
	"key" TEXT NOT NULL,
	pool TEXT NOT NULL,
	credential TEXT NOT NULL,
	created_at DOUBLE NOT NULL,
	PRIMARY KEY ("key")
)
 WITHOUT ROWID;
CREATE INDEX affinity_by_time ON affinity (created_at);
CREATE TABLE credential_block (
	credential TEXT NOT NULL,
	blocked_until DOUBLE NOT NULL,
	reason TEXT NOT NULL,
	at DOUBLE NOT NULL,
	PRIMARY KEY (credential)
)
 WITHOUT ROWID;
CREATE TABLE event (
	id INTEGER NOT NULL,
	at DOUBLE NOT NULL,
	actor TEXT NOT NULL,
	kind TEXT NOT NULL,
	subject TEXT NOT NULL,
	detail JSON,
	PRIMARY KEY (id)
);
CREATE INDEX event_by_time ON event (at, id);
CREATE TABLE meta (
	"key" TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY ("key")
);
CREATE TABLE quota (
	credential TEXT NOT NULL,
	at DOUBLE NOT NULL,
	rate_limits JSON NOT NULL,
	PRIMARY KEY (credential)
);
CREATE TABLE quota_sample (
	id INTEGER NOT NULL,
	credential TEXT NOT NULL,
	period TEXT NOT NULL,
	window_start BIGINT NOT NULL,
	window_end BIGINT NOT NULL,
	at DOUBLE NOT NULL,
	used_percent DOUBLE NOT NULL,
	cost_micro_usd BIGINT NOT NULL,
	cost_before_micro_usd BIGINT NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX quota_sample_by_window ON quota_sample (credential, period, id);
CREATE TABLE stored_object (
	id TEXT NOT NULL,
	user TEXT NOT NULL,
	kind TEXT NOT NULL,
	credential TEXT NOT NULL,
	created_at DOUBLE NOT NULL,
	turn TEXT,
	PRIMARY KEY (id)
)
 WITHOUT ROWID;
CREATE INDEX stored_object_by_kind ON stored_object (kind, created_at);
CREATE INDEX stored_object_by_turn ON stored_object (turn);
CREATE INDEX stored_object_by_user ON stored_object (user, kind);
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
	image_input_tokens BIGINT,
	image_cached_tokens BIGINT,
	image_output_tokens BIGINT,
	audio_input_tokens BIGINT,
	audio_cached_tokens BIGINT,
	audio_output_tokens BIGINT,
	media_ms BIGINT,
	characters BIGINT,
	items BIGINT,
	estimated BOOLEAN DEFAULT 0 NOT NULL,
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
	turns_estimated BIGINT DEFAULT '0' NOT NULL,
	input_tokens BIGINT NOT NULL,
	cached_tokens BIGINT NOT NULL,
	output_tokens BIGINT NOT NULL,
	reasoning_tokens BIGINT NOT NULL,
	cache_write_tokens BIGINT NOT NULL,
	image_input_tokens BIGINT DEFAULT '0' NOT NULL,
	image_cached_tokens BIGINT DEFAULT '0' NOT NULL,
	image_output_tokens BIGINT DEFAULT '0' NOT NULL,
	audio_input_tokens BIGINT DEFAULT '0' NOT NULL,
	audio_cached_tokens BIGINT DEFAULT '0' NOT NULL,
	audio_output_tokens BIGINT DEFAULT '0' NOT NULL,
	media_ms BIGINT DEFAULT '0' NOT NULL,
	characters BIGINT DEFAULT '0' NOT NULL,
	items BIGINT DEFAULT '0' NOT NULL,
	cost_micro_usd BIGINT NOT NULL,
	PRIMARY KEY (user, hour, credential, model, service_tier, context_window, week_start)
)
 WITHOUT ROWID;
CREATE INDEX turn_hour_by_hour ON turn_hour (hour);
CREATE TABLE user (
	id INTEGER NOT NULL,
	name VARCHAR(64) NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	admin BOOLEAN NOT NULL,
	disabled BOOLEAN NOT NULL,
	models JSON,
	limits JSON,
	max_concurrent INTEGER,
	expires_at DOUBLE,
	credential TEXT,
	created_at DOUBLE NOT NULL,
	updated_at DOUBLE NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name),
	UNIQUE (token_sha256)
);
