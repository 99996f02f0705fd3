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
	documentsSQL = `
SELECT setseed(0.42);
CREATE TABLE words AS SELECT n, string_agg(chr(97 + floor(power(random(), 1.5) * 26)::int), '') AS word
	FROM generate_series(0, 3999) n, generate_series(1, 3 + n % 8) GROUP BY n;
CREATE TABLE documents AS SELECT id, 'document ' || id AS title, (
	SELECT string_agg(w[1 + floor(power(random(), 3) * 4000)::int + 0 * n], ' ') FROM generate_series(1, 75 + id % 40) n) AS body
	FROM generate_series(1, 700000) id, (SELECT array_agg(word ORDER BY n) AS w FROM words) v;
ALTER TABLE documents ADD PRIMARY KEY (id)`
	vectorsSQL = `
SELECT setseed(0.43);
CREATE TABLE vectors AS SELECT id, (
	SELECT array_agg((random() - 0.5)::real) FROM generate_series(1, 384 + 0 * id)) AS embedding
	FROM generate_series(1, 250000) id;
ALTER TABLE vectors ADD PRIMARY KEY (id)`
)

// startCluster starts the kept cluster, after building it the first time.
func startCluster(b *bench) *pgtest.Server {
	dir := filepath.Join(cacheDir(b), clusterName)
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		buildCluster(b, dir)
	} else if err != nil {
		b.Fatal(err)
	}
	s := pgtest.Adopt(b, "15", dir)
	s.Start(b)
	return s
}

func buildCluster(b *bench, dir string) {
	fmt.Fprintf(os.Stderr, "building the cluster, once (some minutes): %s\n", dir)
	s := pgtest.New(b, "15", pgtest.Options{Conf: map[string]string{
		"autovacuum": "off", "shared_buffers": "256MB", "max_wal_size": "4GB", "archive_mode": "on", "archive_command": "true",
		"synchronous_commit": "off",
	}})
	s.Start(b)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"pgbench -i -s 100", func() { s.Pgbench(b, "-i", "-q", "-s", "100") }},
		{"700,000 documents", func() { s.Exec(b, documentsSQL) }},
		{"250,000 vectors", func() { s.Exec(b, vectorsSQL) }},
		{"vacuum", func() { pgtest.MustRun(b, s.Command("psql", "-qc", "VACUUM (FREEZE, ANALYZE)")) }},
	} {
		fmt.Fprintf(os.Stderr, "  %s\n", step.name)
		step.do()
	}
	s.Stop(b, pgtest.Fast)
	// To the side first: a copy that is cut off must not look like the cluster.
	temp := dir + ".temp"
	if out, err := exec.Command("sh", "-c", `rm -rf "$2" && cp -a "$1" "$2" && sync`, "sh", s.Dir, temp).CombinedOutput(); err != nil {
		b.Fatalf("keep cluster: %v: %s", err, out)
	}
	if err := os.Rename(temp, dir); err != nil {
		b.Fatal(err)
	}
}

func cacheDir(b *bench) string {
	out, err := exec.Command("test/setup/cache-dir.sh").Output()
	if err != nil {
		b.Fatalf("run from the root of the checkout: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// scratchDir lies beside the cluster, on the same disk.
func scratchDir(b *bench) string {
	dir, err := os.MkdirTemp(cacheDir(b), "bench-scratch-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	pgtest.Own(b, dir)
	return dir
}

func mkdir(b *bench, dir string) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	pgtest.Own(b, dir)
}

func copyFile(b *bench, from, to string) {
	data, err := os.ReadFile(from)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		b.Fatal(err)
	}
}

// dirSize is the sum of the sizes of the files, without pg_wal.
func dirSize(b *bench, dir string) int64 {
	var sum int64
	eachFile(b, dir, func(_ string, info fs.FileInfo) { sum += info.Size() })
	return sum
}

// warm reads every file once.
func warm(b *bench, dir string) {
	eachFile(b, dir, func(path string, _ fs.FileInfo) {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if _, err := io.Copy(io.Discard, f); err != nil {
			b.Fatal(err)
		}
	})
}

func eachFile(b *bench, dir string, fn func(path string, info fs.FileInfo)) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
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
	if err != nil {
		b.Fatal(err)
	}
}
