package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// clusterName changes with the SQL below, so that an old cluster is not taken
// for the new one.
const clusterName = "bench-cluster-1"

// documents are sentences of a vocabulary with a skew, about 650 bytes each;
// vectors are 384 random floats, which nothing compresses. With pgbench scale
// 100 (1.5 GB) the cluster has 2.5 GB.
const (
	wordsSQL = `
SELECT setseed(0.42);
CREATE TABLE words AS SELECT n, string_agg(chr(97 + floor(power(random(), 1.5) * 26)::int), '') AS word
	FROM generate_series(0, 3999) n, generate_series(1, 3 + n % 8) GROUP BY n`
	// bodySQL is an expression: the text of document id, of the words w.
	bodySQL = `(SELECT string_agg(w[1 + floor(power(random(), 3) * 4000)::int + 0 * n], ' ') FROM generate_series(1, 75 + id % 40) n)`
	// vocabularySQL is a table of one row, with the words w.
	vocabularySQL = `(SELECT array_agg(word ORDER BY n) AS w FROM words) v`
	documentsSQL  = wordsSQL + `;
CREATE TABLE documents AS SELECT id, 'document ' || id AS title, ` + bodySQL + ` AS body
	FROM generate_series(1, ROWS) id, ` + vocabularySQL + `;
ALTER TABLE documents ADD PRIMARY KEY (id)`
	vectorsSQL = `
SELECT setseed(0.43);
CREATE TABLE vectors AS SELECT id, (
	SELECT array_agg((random() - 0.5)::real) FROM generate_series(1, 384 + 0 * id)) AS embedding
	FROM generate_series(1, ROWS) id;
ALTER TABLE vectors ADD PRIMARY KEY (id)`
)

// kept is a cluster in the cache directory of the tests, built the first time
// that it is asked for, and never written to again.
type kept struct {
	version string // major of PostgreSQL
	scale   int    // of pgbench; the tables beside it are in proportion
}

func (k kept) documents() int { return 7000 * k.scale }
func (k kept) vectors() int   { return 2500 * k.scale }

func (k kept) name() string {
	if k == (kept{"15", 100}) {
		return clusterName
	}
	return fmt.Sprintf("%s-%s-%d", clusterName, k.version, k.scale)
}

// dir returns where the cluster is, after building it if need be.
func (k kept) dir(b *bench) string {
	dir := filepath.Join(b.cacheDir(), k.name())
	_, err := os.Stat(dir)
	if os.IsNotExist(err) {
		k.build(b, dir)
	} else {
		b.must(err)
	}
	return dir
}

func (k kept) build(b *bench, dir string) {
	b.note("building cluster %s, once (minutes at scale 100)", k.name())
	s := pgtest.New(b, k.version, pgtest.Options{Conf: map[string]string{
		"autovacuum": "off", "shared_buffers": "256MB", "max_wal_size": "4GB", "archive_mode": "on", "archive_command": "true",
		"synchronous_commit": "off",
	}})
	s.Start(b)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{fmt.Sprintf("pgbench scale %d", k.scale), func() { s.Pgbench(b, "-i", "-q", "-s", fmt.Sprint(k.scale)) }},
		{fmt.Sprintf("%d documents", k.documents()), func() { s.Exec(b, fill(documentsSQL, "ROWS", k.documents())) }},
		{fmt.Sprintf("%d vectors", k.vectors()), func() { s.Exec(b, fill(vectorsSQL, "ROWS", k.vectors())) }},
		{"vacuum", func() { pgtest.MustRun(b, s.Command("psql", "-qc", "VACUUM (FREEZE, ANALYZE)")) }},
	} {
		b.note("  %s", step.name)
		step.do()
	}
	s.Stop(b, pgtest.Fast)
	// To the side first: a copy that is cut off must not look like the cluster.
	temp := dir + ".temp"
	if out, err := exec.Command("sh", "-c", `rm -rf "$2" && cp -a "$1" "$2" && sync`, "sh", s.Dir, temp).CombinedOutput(); err != nil {
		b.Fatalf("keep cluster: %v: %s", err, out)
	}
	b.must(os.Rename(temp, dir))
}

// fill puts values in the place of words in sql, which is full of percent signs.
func fill(sql string, words ...any) string {
	text := make([]string, len(words))
	for i, w := range words {
		text[i] = fmt.Sprint(w)
	}
	return strings.NewReplacer(text...).Replace(sql)
}

// copyTo makes a cluster of its own below scratch and does not start it.
func (k kept) copyTo(b *bench, name string) *pgtest.Server {
	from, to := k.dir(b), filepath.Join(b.scratch, name)
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		b.Fatalf("copy cluster: %v: %s", err, out)
	}
	// The marker that pgtrove left belongs to a repository that is gone.
	b.must(os.RemoveAll(filepath.Join(to, "pgtrove.last")))
	return pgtest.Adopt(b, k.version, to)
}

func (b *bench) cacheDir() string {
	out, err := exec.Command("test/setup/cache-dir.sh").Output()
	if err != nil {
		b.Fatalf("run from the root of the checkout: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// dirSize is the sum of the sizes of the files, without pg_wal.
func dirSize(b *bench, dir string) int64 {
	n, err := treeSize(dir)
	b.must(err)
	return n
}

func treeSize(dir string) (sum int64, err error) {
	err = walkFiles(dir, func(_ string, info fs.FileInfo) { sum += info.Size() })
	return sum, err
}

// warm reads every file once.
func warm(b *bench, dir string) {
	eachFile(b, dir, func(path string, _ fs.FileInfo) {
		f, err := os.Open(path)
		b.must(err)
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		b.must(err)
	})
}

// eachFile calls fn for the regular files below dir in order of name, those of
// pg_wal left out.
func eachFile(b *bench, dir string, fn func(path string, info fs.FileInfo)) {
	b.must(walkFiles(dir, fn))
}

func walkFiles(dir string, fn func(path string, info fs.FileInfo)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "pg_wal" {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			fn(path, info)
		}
		return err
	})
}
