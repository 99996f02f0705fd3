package format

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/walarchive"
)

const groupsFile = "data/base/5/16384"

// groupsContent is the file in the snapshot of a group: most of it is in both.
func groupsContent(cluster string) []byte { return append(pages(1, 40), []byte("of "+cluster)...) }

func groupsWAL(cluster string) []byte {
	return bytes.Repeat([]byte("wal of "+cluster+" "), 1<<16)[:1<<20/2]
}

// newGroups makes a repository in which hosts of two trust groups have written.
func newGroups(t *testing.T) *ring {
	t.Helper()
	k := &keyed{t: t, dir: filepath.Join(t.TempDir(), "repo"), want: ExpectedKeyed{Names: map[string]string{}, Identities: map[string]string{}}}
	var err error
	if k.store, err = fs.Create(k.dir); err != nil {
		t.Fatal(err)
	}
	id, to := k.identity("owner")
	if _, err := repo.InitWith(t.Context(), k.store, nil, time.Now(), repo.InitOptions{Owners: to}); err != nil {
		t.Fatal(err)
	}
	for cluster, group := range map[string]string{"main": "", "other": "b"} {
		r, _, _ := k.add(k.open(id), repo.NewKey{Name: "of-" + cluster, Role: keys.Standby, Group: group})
		g := &generator{t: t, repo: r}
		content := groupsContent(cluster)
		f := &file{entry: Entry{Path: groupsFile, Type: typeFile, Mode: 0o600, Size: uint64(len(content))}, content: content}
		o := repo.SessionOptions{Cluster: cluster, Host: "of-" + cluster, Now: time.Now}
		if err := r.Write(t.Context(), o, func(ctx context.Context, s *repo.Session) error {
			taken := g.take(ctx, s, []*file{{entry: Entry{Path: "data", Type: typeDirectory, Mode: 0o700}}, f})
			m := &snapshot.Manifest{
				Version: 1, ID: s.ID(), Cluster: cluster, Origin: snapshot.Origin{Host: "of-" + cluster},
				Server: snapshot.Server{SystemID: goldenSystem, Version: 150018, BlockSize: 8192, WALSegmentSize: 1 << 20},
				Window: snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: 0x1_02000028, StopLSN: 0x1_02000138, StartTime: goldenTime(1), StopTime: goldenTime(2)},
				WAL:    snapshot.WALComplete, BackupLabel: []byte("START WAL LOCATION: 1/2000028\n"), Root: taken.Root,
			}
			text, err := m.Marshal()
			if err != nil {
				return err
			}
			return s.Commit(ctx, text)
		}); err != nil {
			t.Fatal(err)
		}
		a := walarchive.Archive{Objects: archive{r}, Cluster: cluster, System: goldenSystem}
		if _, err := a.Push(t.Context(), "000000010000000100000020.00000028.backup", groupsWAL(cluster), walarchive.Facts{SegmentSize: pg.SegmentSize(1 << 20)}); err != nil {
			t.Fatal(err)
		}
	}
	g := &ring{dir: k.dir, want: k.want}
	g.openOwner(t)
	return g
}

func TestWhoHasTheKeysOfAGroupReadsWhatItHas(t *testing.T) {
	g := newGroups(t)
	for who, clusters := range map[string][]string{"owner": {"main", "other"}, "of-main": {"main"}, "of-other": {"other"}} {
		r := g.open(t, who)
		found, err := r.Snapshots()
		if err != nil || len(found) != len(clusters) {
			t.Fatalf("%s: %d snapshots, %v", who, len(found), err)
		}
		for _, m := range found {
			in := r.Of(m)
			entries, err := in.Listing(m)
			if err != nil || len(entries) != 2 {
				t.Fatalf("%s: %s: %d entries, %v", who, m.Cluster, len(entries), err)
			}
			content, err := in.File(entries[1])
			switch {
			case who != "owner":
				refuses(t, who+": content", err, ErrRole)
			case err != nil || !bytes.Equal(content, groupsContent(m.Cluster)):
				t.Errorf("%s: %s: %d bytes, %v", who, m.Cluster, len(content), err)
			}
			if chunks := m.Root.Chunks; who == "owner" && m.Cluster == "other" {
				_, _, err := r.Chunk(chunks[0]) // a chunk of one group is none of another's
				refuses(t, "the listing, in segments of the owner's group", err, ErrDamaged)
			}
		}
		for _, name := range r.Names("wal/") {
			h, content, err := r.WAL(name)
			if ours := slices.ContainsFunc(clusters, func(c string) bool { return bytes.Contains([]byte(name), []byte("/"+c+"/")) }); !ours {
				refuses(t, who+": "+name, err, ErrDamaged)
			} else if err != nil || !bytes.Equal(content, groupsWAL(h.Cluster)) {
				t.Errorf("%s: %s: %d bytes, %v", who, name, len(content), err)
			}
		}
		for _, name := range r.Names("packs/") {
			object, err := r.Object(name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := r.Bundle.OpenPack(name, object)
			if err != nil && who == "owner" {
				t.Error(err)
			}
			for i := 0; err == nil && i < len(p.Chunks); i++ {
				if _, err := p.Chunk(i); err != nil && !(errors.Is(err, ErrRole) && who != "owner") {
					t.Errorf("%s: %v", who, err)
				}
			}
		}
	}
}
