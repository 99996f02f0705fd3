package main

import (
	"strconv"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// churnSQL updates and inserts documents. Some random ids are drawn twice, so a
// few more are drawn.
const churnSQL = `
SELECT setseed(SEED);
UPDATE documents d SET body = n.body FROM (
	SELECT id, ` + bodySQL + ` AS body
	FROM (SELECT DISTINCT 1 + floor(random() * (SELECT max(id) FROM documents))::int AS id FROM generate_series(1, UPDATES * 11 / 10 + 10) LIMIT UPDATES) x,
		` + vocabularySQL + `) n
	WHERE d.id = n.id;
INSERT INTO documents SELECT id, 'document ' || id, ` + bodySQL + `
	FROM generate_series((SELECT max(id) FROM documents) + 1, (SELECT max(id) FROM documents) + INSERTS) id, ` + vocabularySQL

// churn is what happens between two snapshots: at scale 100, 10,000
// transactions of pgbench (TPC-B like), 3,500 updates of documents at random
// and 10,000 new ones, and a checkpoint. With one client the same round makes
// the same rows on two clusters.
func (k kept) churn(b *bench, s *pgtest.Server, round, clients int) {
	transactions, updates, inserts := 100*k.scale, 35*k.scale, 100*k.scale
	s.Pgbench(b, "-n", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)),
		"-t", strconv.Itoa(transactions/clients), "--random-seed", strconv.Itoa(round))
	s.Exec(b, fill(churnSQL, "SEED", float64(round%1000)/1000, "UPDATES", updates, "INSERTS", inserts))
	s.Exec(b, "CHECKPOINT")
}
