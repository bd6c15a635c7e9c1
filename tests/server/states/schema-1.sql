-- SPDX-License-Identifier: Apache-2.0
-- A state of schema version 1, as the first version of the state store (clf/server/state_sqlite.py) made it, written out by
-- sqlite3's iterdump: a grant with two of three runs used, a closed and two open reads, a result, an upload in flight.
BEGIN TRANSACTION;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('generation','1');
INSERT INTO "meta" VALUES('policy','abababababababababababababababababababababababababababababababab');
INSERT INTO "meta" VALUES('policy_set','1780000000.0');
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('trust','simulation');
CREATE TABLE results (
        id TEXT PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, grant_name TEXT NOT NULL,
        enclave TEXT NOT NULL, run BLOB NOT NULL, committed REAL NOT NULL, receipt BLOB NOT NULL, collected REAL);
INSERT INTO "results" VALUES('ccccccccccccccccccccccccccccccccccccccccccc','report.json',300,'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','trainer-write','trainer',X'02020202020202020202020202020202',1780000010.0,X'72656365697074',NULL);
CREATE TABLE runs (
        grant_name TEXT NOT NULL, run BLOB NOT NULL, first REAL NOT NULL,
        PRIMARY KEY (grant_name, run)) WITHOUT ROWID;
INSERT INTO "runs" VALUES('trainer-read',X'01010101010101010101010101010101',1780000001.0);
INSERT INTO "runs" VALUES('trainer-read',X'02020202020202020202020202020202',1780000002.0);
INSERT INTO "runs" VALUES('trainer-write',X'02020202020202020202020202020202',1780000002.0);
CREATE TABLE transfers (
        id TEXT PRIMARY KEY, run BLOB NOT NULL, grant_name TEXT NOT NULL, enclave TEXT NOT NULL, action TEXT NOT NULL,
        created REAL NOT NULL, expires REAL NOT NULL, touched REAL NOT NULL, path TEXT, offset INTEGER, length INTEGER,
        size INTEGER, etag TEXT, received INTEGER NOT NULL, declared_size INTEGER, state TEXT NOT NULL,
        reason TEXT NOT NULL, answer BLOB NOT NULL, request BLOB NOT NULL, claims TEXT NOT NULL, key_id TEXT NOT NULL,
        receipt BLOB, manifest BLOB, charged_bytes INTEGER NOT NULL);
INSERT INTO "transfers" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',X'01010101010101010101010101010101','trainer-read','trainer','read',1780000001.0,1780086401.0,1780000009.0,'patients/2024.csv',NULL,NULL,1000,'e1',0,NULL,'closed','the client closed it',X'616E737765722061',X'7B2272223A2261227D','{}','k1780000000-00000000',NULL,NULL,1000);
INSERT INTO "transfers" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',X'02020202020202020202020202020202','trainer-read','trainer','read',1780000002.0,1780086402.0,1780000002.0,'patients/2024.csv',NULL,NULL,2000,'e2',0,NULL,'open','',X'616E737765722062',X'7B2272223A2262227D','{}','k1780000000-00000000',NULL,NULL,2000);
INSERT INTO "transfers" VALUES('ccccccccccccccccccccccccccccccccccccccccccc',X'02020202020202020202020202020202','trainer-write','trainer','write',1780000002.0,1780086402.0,1780000010.0,'patients/2024.csv',NULL,NULL,300,NULL,300,500,'committed','',X'616E737765722063',X'7B2272223A2263227D','{}','k1780000000-00000000',X'72656365697074',NULL,300);
INSERT INTO "transfers" VALUES('ddddddddddddddddddddddddddddddddddddddddddd',X'02020202020202020202020202020202','trainer-read','trainer','list',1780000002.0,1780086402.0,1780000002.0,'patients/2024.csv',NULL,NULL,NULL,'e3',0,NULL,'open','',X'616E737765722064',X'7B2272223A2264227D','{}','k1780000000-00000000',NULL,X'7B2270617468223A2278227D0A',0);
INSERT INTO "transfers" VALUES('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',X'02020202020202020202020202020202','trainer-write','trainer','write',1780000002.0,1780086402.0,1780000002.0,'patients/2024.csv',NULL,NULL,NULL,NULL,100,500,'open','',X'616E737765722065',X'7B2272223A2265227D','{}','k1780000000-00000000',NULL,NULL,0);
CREATE TABLE usage (
        grant_name TEXT PRIMARY KEY, runs INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "usage" VALUES('trainer-read',2,3000);
INSERT INTO "usage" VALUES('trainer-write',1,300);
CREATE INDEX transfers_open ON transfers (created) WHERE state = 'open';
CREATE INDEX transfers_ended ON transfers (expires) WHERE state <> 'open';
CREATE INDEX results_kept ON results (size) WHERE collected IS NULL;
COMMIT;
