package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// recipient makes an identity, and what a key is wrapped for.
func recipient(t testing.TB) (age.Identity, []Recipient) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id, []Recipient{{Recipient: id.Recipient(), Text: id.Recipient().String(), Kind: keys.KindIdentity}}
}

// addKey makes a key, and opens the repository with it.
func addKey(t testing.TB, owner *Repo, k NewKey) (*Repo, *Key, age.Identity) {
	t.Helper()
	id, to := recipient(t)
	k.Recipients = to
	key, err := owner.AddKey(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	return openAs(t, owner.store, id), key, id
}

func openAs(t testing.TB, s storage.Store, id age.Identity) *Repo {
	t.Helper()
	return fixture{id: id}.open(t, s)
}

// commitAs commits a snapshot that says it is of a host, without asking whether it may.
func commitAs(t *testing.T, r *Repo, cluster, host string) string {
	t.Helper()
	s, err := r.announce(t.Context(), SessionOptions{Cluster: cluster, Host: host, Now: time.Now}, false)
	must(t, err)
	manifest := fmt.Appendf(nil, `{"origin":{"host":%q}}`, host)
	must(t, r.end(t.Context(), s.outcomeKey(), &outcome{Version: 1, Outcome: outcomeSnapshot, Nonce: newNonce(), Manifest: manifest}))
	return s.sid
}

// shown gives the snapshots that a reader is shown: those that count, and why others are refused.
func shown(t *testing.T, r *Repo) (counting []string, refused map[string]string) {
	t.Helper()
	refused = map[string]string{}
	must(t, r.Commits(t.Context(), "", func(c Commit) error {
		switch {
		case c.Refused():
			refused[c.ID] = c.Err.Error()
		case c.Err != nil:
			t.Errorf("%s: %v", c.ID, c.Err)
		default:
			counting = append(counting, c.ID)
		}
		return nil
	}))
	return counting, refused
}

// markNothing is the Marker of snapshots without chunks.
func markNothing(_ context.Context, _ *View, snapshots []Commit, _ func(chunk.ID)) error {
	for _, c := range snapshots {
		if c.Err != nil {
			return fmt.Errorf("asked what %s needs: %w", c.ID, c.Err)
		}
	}
	return nil
}

func TestASnapshotThatAKeyMayNotMakeIsRefusedAndStaysUntilAPersonForgetsIt(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, key1, id1 := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer, Clusters: []string{"one", "both"}})
	db2, key2, _ := addKey(t, owner, NewKey{Name: "db2", Role: keys.Standby})
	db1 := openAs(t, f.store, id1) // who was there before knows nothing of the second
	good := []string{commitAs(t, db1, "one", "db1"), commitAs(t, db1, "both", "db1"), commitAs(t, db2, "both", "db2"), commitAs(t, db2, "two", "db2.example.org"),
		commitAs(t, owner, "one", "db2")} // an owner may say anything
	slices.Sort(good)
	bad := map[string][]string{
		commitAs(t, db1, "two", "db1"): {"db1", key1.ID, "cluster two"},
		commitAs(t, db1, "one", "db2"): {"db1", key1.ID, `host "db2"`, key2.ID},
		commitAs(t, db2, "one", "db1"): {"db2", `host "db1"`},
	}
	check := func(when string) {
		t.Helper()
		for _, r := range []*Repo{owner, db1} {
			counting, refused := shown(t, r)
			slices.Sort(counting)
			if !slices.Equal(counting, good) || len(refused) != len(bad) {
				t.Fatalf("%s: counting %v, refused %v", when, counting, refused)
			}
			for sid, says := range bad {
				for _, what := range says {
					if !strings.Contains(refused[sid], what) {
						t.Errorf("%s: of %s it says %q", when, sid, refused[sid])
					}
				}
			}
		}
	}
	check("at once")
	l, err := owner.list(t.Context(), forReading)
	must(t, err)
	for _, cluster := range []string{"one", "two"} {
		if sid, err := owner.newestSnapshot(t.Context(), l, cluster, []string{"0"}); err != nil || !slices.Contains(good, sid) {
			t.Errorf("the newest of %s is %q, %v", cluster, sid, err)
		}
	}
	o := pruning()
	o.Mark = markNothing
	for range 3 {
		if report := prune(t, db1, o); len(report.Damage) > 0 || report.Valid != len(good)+len(bad) {
			t.Fatalf("%+v", report)
		}
		check("after a prune")
	}
	for sid := range bad {
		must(t, owner.Forget(t.Context(), sid))
	}
	for range 2 {
		prune(t, owner, o)
	}
	if _, refused := shown(t, owner); len(refused) > 0 || len(list(t, f.store, snapshotsPrefix)) != len(good) {
		t.Errorf("forgotten, and there: %v", refused)
	}
}

func TestASessionIsToldAtOnceThatItsSnapshotWouldBeRefused(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, key, id := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer, Clusters: []string{"one"}})
	addKey(t, owner, NewKey{Name: "db2", Role: keys.Writer})
	db1 := openAs(t, f.store, id)
	begin := func(r *Repo, cluster, host string) error {
		return r.Write(t.Context(), SessionOptions{Cluster: cluster, Host: host, Now: time.Now}, func(ctx context.Context, s *Session) error {
			return s.Commit(ctx, []byte("1"))
		})
	}
	must(t, begin(db1, "one", "db1"))
	before := len(list(t, f.store, ""))
	for what, err := range map[string]error{"another cluster": begin(db1, "two", "db1"), "another host": begin(db1, "one", "db2")} {
		if !errors.Is(err, ErrOrigin) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := owner.RemoveKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	again, err := newRepo(f.store, db1.config, db1.bundle) // a bundle that somebody has kept
	must(t, err)
	if err := begin(again, "one", "db1"); !errors.Is(err, ErrOrigin) {
		t.Errorf("a key that was removed: %v", err)
	}
	if after := len(list(t, f.store, "")); after != before {
		t.Errorf("%d objects became %d", before, after) // a bundle gave way to a record
	}
}

func TestASnapshotOfNobodyIsRefused(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	r := f.open(t, f.store)
	good := commitAs(t, r, "main", "h")
	// Everything is right but who signs: another repository's owner, who has this one's keys all the same.
	stranger := *r.bundle
	stranger.Signing = other.open(t, other.store).bundle.Signing
	forger, err := newRepo(f.store, r.config, &stranger)
	must(t, err)
	forged := commitAs(t, forger, "main", "h")
	// And nobody, as a program did before there were signatures.
	bare := *r.bundle
	bare.Signing, bare.Common = keys.Signing{}, bare.MetaKey
	old, err := newRepo(f.store, r.config, &bare)
	must(t, err)
	s, err := r.announce(t.Context(), options(), false)
	must(t, err)
	must(t, old.end(t.Context(), s.outcomeKey(), &outcome{Version: 1, Outcome: outcomeSnapshot, Nonce: newNonce(), Manifest: []byte("1")}))
	if _, err := r.outcome(t.Context(), s.outcomeKey()); !errors.Is(err, ErrDamaged) || !errors.Is(err, ErrOrigin) || !strings.Contains(err.Error(), "unsigned") {
		t.Errorf("%v", err)
	}
	counting, refused := shown(t, r)
	if !slices.Equal(counting, []string{good}) || len(refused) != 2 || refused[forged] == "" || refused[s.sid] == "" {
		t.Errorf("counting %v, refused %v", counting, refused)
	}
	// Nor does such a one keep a session from committing, or a prune from its work.
	o := pruning()
	o.Mark = markNothing
	prune(t, r, o)
	if _, refused := shown(t, r); len(refused) != 2 {
		t.Errorf("after a prune: %v", refused)
	}
}

// TestWritersGoByNoSegmentOfNobody: of one whose signature is none, and of one that a key signed which is removed, writers store again what it names.
func TestWritersGoByNoSegmentOfNobody(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, f fixture, owner *Repo, by *Key, segment string){
		"its key was removed": func(t *testing.T, _ fixture, owner *Repo, by *Key, _ string) {
			_, err := owner.RemoveKey(t.Context(), by.ID)
			must(t, err)
		},
		"unsigned": func(t *testing.T, f fixture, owner *Repo, _ *Key, segment string) {
			bare := *owner.bundle
			bare.Signing, bare.Common = keys.Signing{}, bare.MetaKey
			old, err := newRepo(f.store, owner.config, &bare)
			must(t, err)
			replaceSegment(t, owner, old, segment)
		},
		"signed by another repository's owner": func(t *testing.T, f fixture, owner *Repo, _ *Key, segment string) {
			other := newFixture(t)
			stranger := *owner.bundle
			stranger.Signing = other.open(t, other.store).bundle.Signing
			forger, err := newRepo(f.store, owner.config, &stranger)
			must(t, err)
			replaceSegment(t, owner, forger, segment)
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			owner := f.open(t, f.store)
			db1, key, _ := addKey(t, owner, NewKey{Name: "test", Role: keys.Writer})
			_, ids := backup(t, db1, pieces(3, 2))
			cache := t.TempDir()
			for _, dir := range []string{"", cache} { // which knows the segment before
				v, _, err := owner.openView(t.Context(), dir, "main", forWriting)
				must(t, err)
				if _, err := v.Locate(ids[0]); err != nil {
					t.Fatal(err)
				}
				must(t, v.Close())
			}
			segments := list(t, f.store, indexPrefix)
			spoil(t, f, owner, key, segments[0])
			again := openAs(t, f.store, f.id)
			v, _, err := again.openView(t.Context(), "", "main", forWriting)
			must(t, err)
			if _, err := v.Locate(ids[0]); !errors.Is(err, ErrMissing) {
				t.Errorf("a writer refers to it: %v", err)
			}
			must(t, v.Close())
			if what != "its key was removed" {
				var broken *IndexError
				if err := again.CheckIndex(t.Context(), nil); !errors.As(err, &broken) || !errors.Is(err, ErrOrigin) {
					t.Errorf("a check says: %v", err)
				}
				return
			}
			v, _, err = again.openView(t.Context(), cache, "main", forWriting)
			must(t, err)
			if _, err := v.Locate(ids[0]); !errors.Is(err, ErrMissing) {
				t.Errorf("a writer whose cache knows it refers to it: %v", err)
			}
			must(t, v.Close())
			data := pieces(3, 2)
			check(t, again, ids, data) // readers need it, for the snapshot counts
		})
	}
}

// replaceSegment puts in the place of a segment the same one as somebody else seals it.
func replaceSegment(t *testing.T, owner, as *Repo, key string) {
	t.Helper()
	plain, err := owner.get(t.Context(), kindIndex, key)
	must(t, err)
	must(t, owner.store.Delete(t.Context(), key))
	must(t, owner.store.Put(t.Context(), key, as.seal(kindIndex, key, plain)))
}

// TestWhoIsRemovedWhileHeCommitsIsNotToldThatHeHas: unless what he has committed counts.
func TestWhoIsRemovedWhileHeCommitsIsNotToldThatHeHas(t *testing.T) {
	for _, when := range []struct {
		verb fault.Verb
		key  string
	}{{fault.Put, snapshotsPrefix}, {fault.Get, sessionsPrefix}, {fault.List, keysPrefix}} {
		f := newFixture(t)
		owner := f.open(t, f.store)
		_, key, id := addKey(t, owner, NewKey{Name: "test", Role: keys.Writer})
		removing, ending := false, false
		s := fault.New(f.store, func(op fault.Op) fault.Action {
			ending = ending || op.Verb == fault.Put && strings.HasPrefix(op.Key, snapshotsPrefix)
			if !removing && ending && op.Verb == when.verb && strings.HasPrefix(op.Key, when.key) {
				removing = true
				_, err := owner.RemoveKey(context.Background(), key.ID)
				if err != nil {
					t.Error(err)
				}
			}
			return fault.Action{}
		})
		sid, _, err := write(t.Context(), openAs(t, s, id), pieces(4, 1))
		counting, _ := shown(t, openAs(t, f.store, f.id))
		if !removing || (err == nil) != slices.Contains(counting, sid) || err != nil && !errors.Is(err, ErrOrigin) {
			t.Errorf("removed at %s %s: counting %v, told %v", when.verb, when.key, counting, err)
		}
	}
}

// TestWhoCommitsWhileHeIsRemovedIsNotToldThatHeHas: the other way round, a whole session at each request of the removal.
func TestWhoCommitsWhileHeIsRemovedIsNotToldThatHeHas(t *testing.T) {
	told := map[bool]int{}
	for n, last := 1, false; !last; n++ {
		f := newFixture(t)
		db1, key, _ := addKey(t, f.open(t, f.store), NewKey{Name: "test", Role: keys.Writer})
		var sid string
		var err error
		calls, armed := 0, false
		s := fault.New(f.store, func(fault.Op) fault.Action {
			if armed {
				if calls++; calls == n {
					sid, _, err = write(context.Background(), db1, pieces(6, 1))
				}
			}
			return fault.Action{}
		})
		owner := openAs(t, s, f.id)
		armed = true
		_, removeErr := owner.RemoveKey(t.Context(), key.ID)
		must(t, removeErr)
		if last = calls < n; last {
			break
		}
		counting, _ := shown(t, openAs(t, f.store, f.id))
		// Whoever is told that it failed may have a snapshot all the same, as after any lost answer.
		if told[err == nil]++; err == nil && !slices.Contains(counting, sid) || err != nil && !errors.Is(err, ErrOrigin) {
			t.Errorf("at request %d: counting %v, told %v", n, counting, err)
		}
	}
	if told[true] == 0 || told[false] == 0 {
		t.Errorf("%v", told)
	}
}

// TestABundleWithoutARootKeyGoesOnAsBefore: a repository of a program that knew no signatures.
func TestABundleWithoutARootKeyGoesOnAsBefore(t *testing.T) {
	f := bareFixture(t)
	r := f.open(t, f.store)
	data := pieces(5, 3)
	sid, ids := backup(t, r, data)
	prune(t, r, pruning())
	check(t, f.open(t, f.store), ids, data)
	if counting, _ := shown(t, r); !slices.Equal(counting, []string{sid}) {
		t.Errorf("%v", counting)
	}
	b, err := f.store.Get(t.Context(), snapshotsPrefix+"main/"+sid, storage.Range{}, nil)
	must(t, err)
	if string(b[:8]) != "pgtsnap\x01" {
		t.Errorf("%q", b[:8])
	}
	all, err := r.Keys(t.Context())
	if err != nil || len(all) != 1 || !all[0].Current || all[0].Role != keys.Owner {
		t.Errorf("%+v, %v", all, err)
	}
	_, to := recipient(t)
	_, addErr := r.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Writer, Recipients: to})
	_, removeErr := r.RemoveKey(t.Context(), all[0].ID)
	_, _, rotateErr := r.RotateKey(t.Context(), all[0].ID, to)
	for what, err := range map[string]error{"add": addErr, "remove": removeErr, "rotate": rotateErr, "rotate data": r.RotateData(t.Context(), nil)} {
		if !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// bareFixture is a repository without a root key.
func bareFixture(t *testing.T) fixture {
	t.Helper()
	f := newFixture(t)
	r := f.open(t, f.store)
	b := *r.bundle
	b.Signing, b.Common = keys.Signing{}, b.MetaKey
	for _, key := range list(t, f.store, keysPrefix) {
		must(t, f.store.Delete(t.Context(), key))
	}
	wrapped, err := keys.Wrap(&b, f.id.(*age.X25519Identity).Recipient())
	must(t, err)
	must(t, f.store.Put(t.Context(), keysPrefix+newID(), wrapped))
	return f
}
