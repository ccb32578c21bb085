-- Written by scripts/new_store.py: not to be edited.
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE enrolments (
	enrolment_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	kind VARCHAR(8) NOT NULL,
	pattern VARCHAR(253) NOT NULL,
	secret_sha256 BLOB NOT NULL,
	uses_max INTEGER NOT NULL,
	uses INTEGER NOT NULL,
	failures INTEGER NOT NULL,
	cidr VARCHAR(64) NOT NULL,
	labels TEXT NOT NULL,
	ephemeral BOOLEAN NOT NULL,
	approve BOOLEAN NOT NULL,
	"replace" BOOLEAN NOT NULL,
	state VARCHAR(16) NOT NULL,
	expires_ms BIGINT NOT NULL,
	created_ms BIGINT NOT NULL,
	created_by VARCHAR(128) NOT NULL, certificate_lifetime_ms BIGINT, expired_grace_ms BIGINT,
	CONSTRAINT pk_enrolments PRIMARY KEY (enrolment_id)
);
CREATE TABLE facts (
	name VARCHAR(64) NOT NULL,
	site VARCHAR(63) NOT NULL,
	value TEXT NOT NULL,
	CONSTRAINT pk_facts PRIMARY KEY (name)
);
CREATE TABLE hosts (
	agent_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	instance VARCHAR(253) NOT NULL,
	instance_key VARCHAR(253) NOT NULL,
	state VARCHAR(16) NOT NULL,
	labels TEXT NOT NULL,
	ephemeral BOOLEAN NOT NULL,
	public_key BLOB NOT NULL,
	envelope_key BLOB NOT NULL,
	hostname VARCHAR(253) NOT NULL,
	agent_version VARCHAR(64) NOT NULL,
	address VARCHAR(64) NOT NULL,
	enrolled_ms BIGINT NOT NULL,
	changed_ms BIGINT NOT NULL,
	reason TEXT NOT NULL, certificate_lifetime_ms BIGINT, expired_grace_ms BIGINT,
	CONSTRAINT pk_hosts PRIMARY KEY (agent_id)
);
CREATE UNIQUE INDEX uq_hosts_live_instance ON hosts (site, instance_key) WHERE state IN ('pending', 'active');
CREATE TABLE users (
	user_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	name VARCHAR(128) NOT NULL,
	name_key VARCHAR(128) NOT NULL,
	disabled BOOLEAN NOT NULL,
	created_ms BIGINT NOT NULL,
	CONSTRAINT pk_users PRIMARY KEY (user_id),
	CONSTRAINT uq_users_site_name_key UNIQUE (site, name_key)
);
CREATE TABLE bearer_tokens (
	token_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	user_id VARCHAR(36) NOT NULL,
	secret_sha256 BLOB NOT NULL,
	created_ms BIGINT NOT NULL,
	expires_ms BIGINT,
	revoked_ms BIGINT, name VARCHAR(128) DEFAULT '' NOT NULL, used_ms BIGINT,
	CONSTRAINT pk_bearer_tokens PRIMARY KEY (token_id),
	CONSTRAINT fk_bearer_tokens_user_id FOREIGN KEY(user_id) REFERENCES users (user_id)
);
CREATE TABLE certificates (
	serial VARCHAR(40) NOT NULL,
	site VARCHAR(63) NOT NULL,
	agent_id VARCHAR(36) NOT NULL,
	public_key BLOB NOT NULL,
	key_sha256 BLOB NOT NULL,
	csr_sha256 BLOB NOT NULL,
	how VARCHAR(16) NOT NULL,
	issued_ms BIGINT NOT NULL,
	not_before_ms BIGINT NOT NULL,
	not_after_ms BIGINT NOT NULL,
	der BLOB NOT NULL,
	CONSTRAINT pk_certificates PRIMARY KEY (serial),
	CONSTRAINT fk_certificates_agent_id FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE INDEX ix_certificates_agent_id ON certificates (agent_id);
CREATE INDEX ix_certificates_key_sha256 ON certificates (key_sha256);
CREATE INDEX ix_certificates_not_after_ms ON certificates (not_after_ms);
CREATE TABLE crit_marks (
	agent_id VARCHAR(36) NOT NULL,
	spool_id BLOB NOT NULL,
	site VARCHAR(63) NOT NULL,
	seq BIGINT NOT NULL,
	digest BLOB NOT NULL,
	changed_ms BIGINT NOT NULL,
	CONSTRAINT pk_crit_marks PRIMARY KEY (agent_id, spool_id),
	CONSTRAINT fk_crit_marks_agent_id FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE crit_records (
	agent_id VARCHAR(36) NOT NULL,
	spool_id BLOB NOT NULL,
	seq BIGINT NOT NULL,
	site VARCHAR(63) NOT NULL,
	event_id BLOB NOT NULL,
	kind VARCHAR(64) NOT NULL,
	boottime_ms BIGINT NOT NULL,
	wall_ms BIGINT NOT NULL,
	received_ms BIGINT NOT NULL,
	payload BLOB NOT NULL,
	CONSTRAINT pk_crit_records PRIMARY KEY (agent_id, spool_id, seq),
	CONSTRAINT fk_crit_records_agent_id FOREIGN KEY(agent_id) REFERENCES hosts (agent_id),
	CONSTRAINT uq_crit_records_agent_id_event_id UNIQUE (agent_id, event_id)
);
CREATE TABLE presence (
	agent_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	labels TEXT NOT NULL,
	since_ms BIGINT NOT NULL, left_reason TEXT DEFAULT '' NOT NULL, back_by_ms BIGINT DEFAULT '0' NOT NULL, beat_interval_ms BIGINT DEFAULT '0' NOT NULL,
	CONSTRAINT pk_presence PRIMARY KEY (agent_id),
	CONSTRAINT fk_presence_agent_id FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE enrolment_uses (
	enrolment_id VARCHAR(12) NOT NULL,
	key_sha256 BLOB NOT NULL,
	site VARCHAR(63) NOT NULL,
	agent_id VARCHAR(36) NOT NULL,
	at_ms BIGINT NOT NULL,
	CONSTRAINT pk_enrolment_uses PRIMARY KEY (enrolment_id, key_sha256),
	CONSTRAINT fk_enrolment_uses_agent_id FOREIGN KEY(agent_id) REFERENCES hosts (agent_id),
	CONSTRAINT fk_enrolment_uses_enrolment_id FOREIGN KEY(enrolment_id) REFERENCES enrolments (enrolment_id)
);
CREATE INDEX ix_enrolment_uses_agent_id ON enrolment_uses (agent_id);
CREATE TABLE grants (
	user_id VARCHAR(36) NOT NULL,
	role VARCHAR(16) NOT NULL,
	scope VARCHAR(512) NOT NULL,
	site VARCHAR(63) NOT NULL,
	CONSTRAINT pk_grants PRIMARY KEY (user_id, role, scope),
	CONSTRAINT fk_grants_user_id FOREIGN KEY(user_id) REFERENCES users (user_id)
);
CREATE TABLE logins (
	login_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	user_id VARCHAR(36) NOT NULL,
	secret_sha256 BLOB NOT NULL,
	created_ms BIGINT NOT NULL,
	expires_ms BIGINT NOT NULL,
	CONSTRAINT pk_logins PRIMARY KEY (login_id),
	CONSTRAINT fk_logins_user_id FOREIGN KEY(user_id) REFERENCES users (user_id)
);
CREATE TABLE sessions (
	session_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	user_id VARCHAR(36) NOT NULL,
	secret_sha256 BLOB NOT NULL,
	csrf_sha256 BLOB NOT NULL,
	created_ms BIGINT NOT NULL,
	seen_ms BIGINT NOT NULL,
	expires_ms BIGINT NOT NULL,
	CONSTRAINT pk_sessions PRIMARY KEY (session_id),
	CONSTRAINT fk_sessions_user_id FOREIGN KEY(user_id) REFERENCES users (user_id)
);
CREATE TABLE silences (
	silence_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	matchers TEXT NOT NULL,
	reason TEXT NOT NULL,
	author VARCHAR(128) NOT NULL,
	created_ms BIGINT NOT NULL,
	starts_ms BIGINT NOT NULL,
	ends_ms BIGINT NOT NULL,
	expired_by VARCHAR(128) NOT NULL, scope TEXT DEFAULT '' NOT NULL,
	CONSTRAINT pk_silences PRIMARY KEY (silence_id)
);
CREATE INDEX ix_silences_ends_ms ON silences (ends_ms);
CREATE TABLE notice_threads (
	thread_key VARCHAR(32) NOT NULL,
	site VARCHAR(63) NOT NULL,
	channel VARCHAR(63) NOT NULL,
	changed_ms BIGINT NOT NULL,
	state BLOB NOT NULL,
	CONSTRAINT pk_notice_threads PRIMARY KEY (thread_key)
);
CREATE TABLE notices (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	notice_key VARCHAR(40) NOT NULL,
	site VARCHAR(63) NOT NULL,
	channel VARCHAR(63) NOT NULL,
	thread_key VARCHAR(32) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	outcome VARCHAR(16) NOT NULL,
	attempts INTEGER NOT NULL,
	created_ms BIGINT NOT NULL,
	changed_ms BIGINT NOT NULL,
	detail TEXT NOT NULL,
	body BLOB NOT NULL,
	CONSTRAINT uq_notices_notice_key UNIQUE (notice_key)
);
CREATE INDEX ix_notices_outcome ON notices (outcome);
CREATE TABLE audit (
	seq BIGINT NOT NULL,
	site VARCHAR(63) NOT NULL,
	at_ms BIGINT NOT NULL,
	boottime_ms BIGINT NOT NULL,
	actor VARCHAR(128) NOT NULL,
	source VARCHAR(64) NOT NULL,
	action VARCHAR(64) NOT NULL,
	target VARCHAR(300) NOT NULL,
	outcome VARCHAR(16) NOT NULL,
	request VARCHAR(32) NOT NULL,
	detail TEXT NOT NULL,
	prev_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	CONSTRAINT pk_audit PRIMARY KEY (seq)
);
CREATE TRIGGER audit_no_UPDATE BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_no_DELETE BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TABLE audit_checkpoints (
	seq BIGINT NOT NULL,
	site VARCHAR(63) NOT NULL,
	at_ms BIGINT NOT NULL,
	hash BLOB NOT NULL,
	"before" BLOB NOT NULL,
	"key" BLOB NOT NULL,
	signature BLOB NOT NULL,
	CONSTRAINT pk_audit_checkpoints PRIMARY KEY (seq)
);
CREATE TRIGGER audit_checkpoints_no_UPDATE BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_checkpoints_no_DELETE BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER crit_records_no_update BEFORE UPDATE ON crit_records
BEGIN SELECT RAISE(ABORT, 'a critical event is never changed'); END;
CREATE TABLE backup_definitions (
	agent_id VARCHAR(36) NOT NULL,
	digest VARCHAR(32) NOT NULL,
	site VARCHAR(63) NOT NULL,
	job VARCHAR(64) NOT NULL,
	received_ms BIGINT NOT NULL,
	document TEXT NOT NULL,
	CONSTRAINT pk_backup_definitions PRIMARY KEY (agent_id, digest),
	CONSTRAINT fk_backup_definitions_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE backup_jobs (
	agent_id VARCHAR(36) NOT NULL,
	job VARCHAR(64) NOT NULL,
	site VARCHAR(63) NOT NULL,
	digest VARCHAR(32) NOT NULL,
	defined_ms BIGINT NOT NULL,
	changed_ms BIGINT NOT NULL,
	gone_ms BIGINT NOT NULL,
	CONSTRAINT pk_backup_jobs PRIMARY KEY (agent_id, job),
	CONSTRAINT fk_backup_jobs_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE backup_records (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	site VARCHAR(63) NOT NULL,
	agent_id VARCHAR(36) NOT NULL,
	record_id VARCHAR(32) NOT NULL,
	job VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	outcome VARCHAR(16) NOT NULL,
	copy VARCHAR(256) NOT NULL,
	run_id VARCHAR(32) NOT NULL,
	observed_ms BIGINT NOT NULL,
	shift_ms BIGINT NOT NULL,
	received_ms BIGINT NOT NULL,
	body BLOB NOT NULL,
	CONSTRAINT uq_backup_records_agent_id_record_id UNIQUE (agent_id, record_id),
	CONSTRAINT fk_backup_records_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE INDEX ix_backup_records_agent_id_job_place ON backup_records (agent_id, job, place);
CREATE TABLE backup_hosts (
	agent_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	through_ms BIGINT NOT NULL,
	CONSTRAINT pk_backup_hosts PRIMARY KEY (agent_id),
	CONSTRAINT fk_backup_hosts_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE backup_changes (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	site VARCHAR(63) NOT NULL,
	agent_id VARCHAR(36) NOT NULL,
	job VARCHAR(64) NOT NULL,
	at_ms BIGINT NOT NULL,
	"before" VARCHAR(16) NOT NULL,
	"after" VARCHAR(16) NOT NULL,
	why TEXT NOT NULL,
	CONSTRAINT fk_backup_changes_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE INDEX ix_backup_changes_agent_id_job_place ON backup_changes (agent_id, job, place);
CREATE TABLE backup_pauses (
	agent_id VARCHAR(36) NOT NULL,
	job VARCHAR(64) NOT NULL,
	site VARCHAR(63) NOT NULL,
	until_ms BIGINT NOT NULL,
	author VARCHAR(128) NOT NULL,
	reason TEXT NOT NULL,
	CONSTRAINT pk_backup_pauses PRIMARY KEY (agent_id, job),
	CONSTRAINT fk_backup_pauses_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE backup_reviews (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	site VARCHAR(63) NOT NULL,
	agent_id VARCHAR(36) NOT NULL,
	job VARCHAR(64) NOT NULL,
	at_ms BIGINT NOT NULL,
	author VARCHAR(128) NOT NULL,
	word VARCHAR(16) NOT NULL,
	note TEXT NOT NULL,
	CONSTRAINT fk_backup_reviews_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE INDEX ix_backup_reviews_agent_id_job_place ON backup_reviews (agent_id, job, place);
CREATE TABLE backup_exemptions (
	exemption_id VARCHAR(12) NOT NULL,
	site VARCHAR(63) NOT NULL,
	kind VARCHAR(8) NOT NULL,
	name VARCHAR(253) NOT NULL,
	owner VARCHAR(128) NOT NULL,
	reason TEXT NOT NULL,
	author VARCHAR(128) NOT NULL,
	created_ms BIGINT NOT NULL,
	expires_ms BIGINT NOT NULL,
	CONSTRAINT pk_backup_exemptions PRIMARY KEY (exemption_id),
	CONSTRAINT uq_backup_exemptions_site_kind_name UNIQUE (site, kind, name)
);
CREATE TRIGGER backup_records_no_update BEFORE UPDATE ON backup_records
BEGIN SELECT RAISE(ABORT, 'a backup''s record is never changed'); END;
CREATE TABLE runs (
	run_id VARCHAR(32) NOT NULL,
	site VARCHAR(63) NOT NULL,
	runbook VARCHAR(64) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	state VARCHAR(16) NOT NULL,
	state_detail TEXT NOT NULL,
	drill BIGINT NOT NULL,
	requester VARCHAR(128) NOT NULL,
	reason TEXT NOT NULL,
	"trigger" VARCHAR(128) NOT NULL,
	parameters TEXT NOT NULL,
	lock_name VARCHAR(256) NOT NULL,
	hosts TEXT NOT NULL,
	created_ms BIGINT NOT NULL,
	started_ms BIGINT NOT NULL,
	ended_ms BIGINT NOT NULL,
	recovered_ms BIGINT NOT NULL,
	changed_ms BIGINT NOT NULL,
	rows_written BIGINT NOT NULL,
	CONSTRAINT pk_runs PRIMARY KEY (run_id)
);
CREATE INDEX ix_runs_site_state ON runs (site, state);
CREATE INDEX ix_runs_runbook_created_ms ON runs (runbook, created_ms);
CREATE INDEX ix_runs_created_ms ON runs (created_ms);
CREATE TABLE run_journal (
	run_id VARCHAR(32) NOT NULL,
	n BIGINT NOT NULL,
	site VARCHAR(63) NOT NULL,
	at_ms BIGINT NOT NULL,
	kind VARCHAR(32) NOT NULL,
	body TEXT NOT NULL,
	prev_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	CONSTRAINT pk_run_journal PRIMARY KEY (run_id, n)
);
CREATE TABLE run_votes (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	run_id VARCHAR(32) NOT NULL,
	site VARCHAR(63) NOT NULL,
	step VARCHAR(128) NOT NULL,
	manifest_digest VARCHAR(64) NOT NULL,
	person VARCHAR(128) NOT NULL,
	approve BIGINT NOT NULL,
	at_ms BIGINT NOT NULL,
	comment TEXT NOT NULL,
	signed BLOB NOT NULL,
	voided_ms BIGINT NOT NULL,
	voided_why TEXT NOT NULL
);
CREATE INDEX ix_run_votes_run_id_step ON run_votes (run_id, step);
CREATE INDEX ix_run_votes_person ON run_votes (person);
CREATE TABLE drills (
	run_id VARCHAR(32) NOT NULL,
	site VARCHAR(63) NOT NULL,
	runbook VARCHAR(64) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	due_ms BIGINT NOT NULL,
	started_ms BIGINT NOT NULL,
	ended_ms BIGINT NOT NULL,
	state VARCHAR(16) NOT NULL,
	recovery_ms BIGINT,
	detail TEXT NOT NULL,
	CONSTRAINT pk_drills PRIMARY KEY (run_id)
);
CREATE INDEX ix_drills_runbook_started_ms ON drills (runbook, started_ms);
CREATE TABLE runbook_texts (
	digest VARCHAR(64) NOT NULL,
	site VARCHAR(63) NOT NULL,
	name VARCHAR(64) NOT NULL,
	author VARCHAR(128) NOT NULL,
	seen_ms BIGINT NOT NULL,
	content TEXT NOT NULL,
	CONSTRAINT pk_runbook_texts PRIMARY KEY (digest)
);
CREATE INDEX ix_runbook_texts_name_seen_ms ON runbook_texts (name, seen_ms);
CREATE TABLE runbook_acceptances (
	digest VARCHAR(64) NOT NULL,
	person VARCHAR(128) NOT NULL,
	site VARCHAR(63) NOT NULL,
	name VARCHAR(64) NOT NULL,
	at_ms BIGINT NOT NULL,
	CONSTRAINT pk_runbook_acceptances PRIMARY KEY (digest, person)
);
CREATE TABLE runbook_preflights (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	site VARCHAR(63) NOT NULL,
	name VARCHAR(64) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	at_ms BIGINT NOT NULL,
	ready BIGINT NOT NULL,
	detail TEXT NOT NULL
);
CREATE INDEX ix_runbook_preflights_name_place ON runbook_preflights (name, place);
CREATE TABLE action_inventories (
	agent_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	version VARCHAR(64) NOT NULL,
	received_ms BIGINT NOT NULL,
	body BLOB NOT NULL,
	CONSTRAINT pk_action_inventories PRIMARY KEY (agent_id),
	CONSTRAINT fk_action_inventories_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE rosters (
	serial BIGINT NOT NULL,
	site VARCHAR(63) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	author VARCHAR(128) NOT NULL,
	published_ms BIGINT NOT NULL,
	signed BLOB NOT NULL,
	CONSTRAINT pk_rosters PRIMARY KEY (serial)
);
CREATE TABLE roster_heard (
	agent_id VARCHAR(36) NOT NULL,
	site VARCHAR(63) NOT NULL,
	serial BIGINT NOT NULL,
	at_ms BIGINT NOT NULL,
	CONSTRAINT pk_roster_heard PRIMARY KEY (agent_id),
	CONSTRAINT fk_roster_heard_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
CREATE TABLE automation (
	name VARCHAR(128) NOT NULL,
	site VARCHAR(63) NOT NULL,
	changed_ms BIGINT NOT NULL,
	person VARCHAR(128) NOT NULL,
	value TEXT NOT NULL,
	CONSTRAINT pk_automation PRIMARY KEY (name)
);
CREATE TRIGGER run_journal_no_update BEFORE UPDATE ON run_journal
BEGIN SELECT RAISE(ABORT, 'a run''s journal is only ever added to'); END;
CREATE TRIGGER run_journal_no_delete BEFORE DELETE ON run_journal
WHEN EXISTS (SELECT 1 FROM runs WHERE runs.run_id = OLD.run_id)
BEGIN SELECT RAISE(ABORT, 'a run''s journal goes with its run and not before'); END;
CREATE TABLE check_changes (
	agent_id VARCHAR(36) NOT NULL,
	check_name VARCHAR(64) NOT NULL,
	site VARCHAR(63) NOT NULL,
	app VARCHAR(64) NOT NULL,
	kind VARCHAR(64) NOT NULL,
	"before" VARCHAR(16) NOT NULL,
	"after" VARCHAR(16) NOT NULL,
	reason VARCHAR(64) NOT NULL,
	detail TEXT NOT NULL,
	since_ms BIGINT NOT NULL,
	at_ms BIGINT NOT NULL,
	CONSTRAINT pk_check_changes PRIMARY KEY (agent_id, check_name),
	CONSTRAINT fk_check_changes_agent_id_hosts FOREIGN KEY(agent_id) REFERENCES hosts (agent_id)
);
INSERT INTO alembic_version VALUES ('0011');
