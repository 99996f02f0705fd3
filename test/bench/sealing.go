package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// sealingWork are the parts of sealing and opening. What is not of these is no part of it.
func sealingWork() []kind {
	return []kind{
		{"chunks of data (AES-256-GCM)", []string{"fips140/aes", "crypto/aes", "crypto/cipher"}},
		{"metadata (XChaCha20-Poly1305)", []string{"chacha20", "poly1305", "keys.(*Meta)"}},
		{"encapsulations, keys derived from them", []string{"crypto/hpke", "mlkem", "crypto/ecdh", "crypto/hkdf", "fips140/hkdf", "keys.(*Sealer)", "keys.(*Opener)"}},
		{"key bundle and signatures", []string{"filippo.io/age", "ed25519"}},
	}
}

// measureSealing samples two backups and a restore in this very process.
func measureSealing(b *bench) *report {
	k := b.cluster()
	if !b.o.quick {
		k.scale = 40 // 1 GB
	}
	s := k.copyTo(b, "sealing-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	s.Exec(b, "CHECKPOINT")
	ctx := context.Background()
	dir := b.mkdir("sealing")
	defer b.discard(dir)
	d, err := createDirect(ctx, dir, b.o.jobs)
	b.must(err)
	take := func() error { return d.takeServer(ctx, s) }

	settle(b, s)
	first := b.sample("first", sealingWork(), take)
	base := d.encapsulations(b)
	k.churn(b, s, 1, 4)
	settle(b, s)
	increment := b.sample("increment", sealingWork(), take)
	both := d.encapsulations(b)
	restored := b.sample("restore", sealingWork(), func() error { return d.bringBack(ctx, b, s, filepath.Join(dir, "restored")) })

	r := &report{head: []string{"", "first backup", "increment", "restore"}}
	r.row("**all samples**", seconds(first.total), seconds(increment.total), seconds(restored.total))
	for _, w := range sealingWork() {
		r.row(w.what, first.share(w.what), increment.share(w.what), restored.share(w.what))
	}
	r.row("**sealing and opening together**", first.known(), increment.known(), restored.known())
	r.row("packs of data", fmt.Sprint(base.packs), fmt.Sprint(both.packs-base.packs), fmt.Sprint(both.packs))
	r.row("encapsulations in them", fmt.Sprint(base.sum), fmt.Sprint(both.sum-base.sum), fmt.Sprint(both.sum))
	r.row("chunks in them", fmt.Sprint(base.chunks), fmt.Sprint(both.chunks-base.chunks), fmt.Sprint(both.chunks))
	r.notef("No pack holds more than %d.", max(base.most, both.most))
	r.notef("The share asked for is at most 8 %%. The cluster has %s.", size(dirSize(b, s.Dir)))
	r.circumstances("PostgreSQL " + s.Query(b, "SHOW server_version"))
	return r
}

// known is the share of all kinds of work that were looked for.
func (s shares) known() string {
	var sum time.Duration
	for what, took := range s.of {
		if what != otherWork {
			sum += took
		}
	}
	return fmt.Sprintf("**%.1f %%**", 100*sum.Seconds()/max(s.total.Seconds(), 1e-9))
}

// encapsulated is how often packs of data carry a session's key.
type encapsulated struct{ packs, sum, most, chunks int }

func (d *direct) encapsulations(b *bench) (e encapsulated) {
	ctx := context.Background()
	var keys []string
	b.must(d.repo.List(ctx, "packs/", func(key string, _ int64) error {
		keys = append(keys, key)
		return nil
	}))
	for _, key := range keys {
		directory, err := d.repo.PackDirectory(ctx, key)
		b.must(err)
		if directory.Kind != pack.Data {
			continue
		}
		e.packs++
		e.sum += len(directory.Sessions)
		e.most = max(e.most, len(directory.Sessions))
		e.chunks += len(directory.Entries)
	}
	return e
}

// bringBack restores the newest snapshot of s as the command does, from a repository that is opened for it. What is restored is never started.
func (d *direct) bringBack(ctx context.Context, b *bench, s *pgtest.Server, to string) error {
	fresh, err := openDirect(ctx, d.dir, d.jobs)
	if err != nil {
		return err
	}
	m, err := fresh.newest(ctx)
	if err != nil {
		return err
	}
	if m.Server.SystemID, err = pg.ParseSystemID(s.Query(b, "SELECT system_identifier FROM pg_control_system()")); err != nil {
		return err
	}
	if m.Server.Version, err = strconv.Atoi(s.Query(b, "SHOW server_version_num")); err != nil {
		return err
	}
	view, err := fresh.repo.OpenView(ctx, "", directCluster)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // only read
	choice := restore.Choice{Snapshot: m}
	recovery := choice.Recovery("false", restore.Promote)
	report, err := restore.Run(ctx, view, restore.Options{Snapshot: m, To: to, Jobs: d.jobs, Key: fresh.repo.IDKey(), Recovery: &recovery})
	if err != nil {
		return err
	}
	if report.Bytes == 0 || strings.TrimSpace(report.Dir) == "" {
		return fmt.Errorf("restored %d bytes to %q", report.Bytes, report.Dir)
	}
	return nil
}
