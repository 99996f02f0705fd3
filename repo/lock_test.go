package repo

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// lockedBucket is a repository with a lock period of a day, on a real server. What is put is kept for putLock only, so that a test can wait for
// its end.
type lockedBucket struct {
	t      *testing.T
	server *s3test.Server
	bucket string
	store  *s3.Store
	id     age.Identity
	repo   *Repo
}

const putLock = 6 * time.Second

func newLockedBucket(t *testing.T, server *s3test.Server) *lockedBucket {
	t.Helper()
	b := &lockedBucket{t: t, server: server, bucket: server.Locked()}
	b.store = server.Store(b.bucket, "p", server.Root)
	b.store.Retain(putLock)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	b.id = id
	b.repo, err = InitWith(t.Context(), b.store, id.Recipient(), time.Now(), InitOptions{ObjectLockDays: 1})
	must(t, err)
	b.repo.config.Params.PackSize = 1 << 20
	return b
}

// locks is until when each object is kept.
func (b *lockedBucket) locks() map[string]time.Time {
	b.t.Helper()
	locks := map[string]time.Time{}
	for _, key := range list(b.t, b.store, "") {
		info, err := b.server.Admin().StatObject(b.t.Context(), b.bucket, "p/"+key, minio.StatObjectOptions{})
		must(b.t, err)
		locks[key], err = time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		must(b.t, err)
	}
	return locks
}

func after(hours int) PruneOptions {
	o := pruning()
	o.Now = func() time.Time { return time.Now().Add(time.Duration(hours) * time.Hour) }
	return o
}

func TestWhatIsNeededStaysLockedAndTheRestRunsOut(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	r := b.repo
	old, _ := backup(t, r, pieces(20, 40))
	pinned, ids := backup(t, r, pieces(21, 40))
	must(t, r.Pin(t.Context(), pinned))

	report := prune(t, r, after(0))
	if l := report.Locks; l.Extended != 0 || l.Refused != 0 || !l.Until.Equal(r.config.Created.Add(24*time.Hour)) {
		t.Errorf("a new repository: %+v", l)
	}
	before := b.locks()
	must(t, r.ForgetLast(t.Context(), old))
	o := after(13)
	o.DryRun = true
	would := prune(t, r, o).Locks.Extended
	report = prune(t, r, after(13)) // condemns what only the forgotten snapshot needs
	if n := report.Locks.Extended; n < 8 || n < would || n > would+2 || time.Until(report.Locks.Until) < 36*time.Hour {
		t.Errorf("%+v, and a dry run would extend %d", report.Locks, would)
	}
	run, err := r.newestRun(t.Context())
	must(t, err)
	condemned := map[string]bool{}
	for _, key := range run.Condemned {
		condemned[key] = true
	}
	moved, left := 0, 0
	now := b.locks()
	for key, until := range now {
		needed := !condemned[key] && !strings.HasPrefix(key, gcPrefix) && !strings.HasPrefix(key, forgetPrefix) && key != snapshotsPrefix+"main/"+old
		switch {
		case needed && until.Before(run.LockedUntil):
			t.Errorf("%s is needed and locked until %s, not %s", key, until, run.LockedUntil)
		case needed:
			moved++
		case condemned[key] && !until.Equal(before[key]):
			t.Errorf("%s is condemned, and its lock was extended to %s", key, until)
		case condemned[key]:
			left++
		}
	}
	if moved != report.Locks.Extended || left == 0 || now[pinsPrefix+pinned].IsZero() {
		t.Errorf("%d are locked for longer, %d condemned are not: %+v", moved, left, report.Locks)
	}

	report = prune(t, r, after(14))
	if report.Swept.Packs != left || len(report.Locked) > 0 || report.Locks.Extended != 0 || !report.Locks.Until.Equal(run.LockedUntil) {
		t.Errorf("the run after: %+v", report)
	}
	check(t, r, ids, pieces(21, 40))
	b.runsOut(left, before)
}

// runsOut removes the versions of packs for good, as a rule of the bucket would: of those that were deleted, at least so many, once their locks run out, and of the
// others none.
func (b *lockedBucket) runsOut(atLeast int, locks map[string]time.Time) {
	b.t.Helper()
	there := map[string]bool{}
	for _, key := range list(b.t, b.store, packsPrefix) {
		there[key] = true
	}
	admin := b.server.Admin()
	removed := 0
	for o := range admin.ListObjectsIter(b.t.Context(), b.bucket, minio.ListObjectsOptions{Prefix: "p/packs/", Recursive: true, WithVersions: true}) {
		must(b.t, o.Err)
		key := strings.TrimPrefix(o.Key, "p/")
		if o.IsDeleteMarker {
			continue
		}
		if !there[key] {
			time.Sleep(time.Until(locks[key].Add(time.Second)))
		}
		err := admin.RemoveObject(b.t.Context(), b.bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		if there[key] != (err != nil) {
			b.t.Errorf("%s, there %v: removing the version says %v", key, there[key], err)
		}
		if err == nil {
			removed++
		}
	}
	if removed < atLeast || removed == 0 {
		b.t.Errorf("%d of %d could be removed", removed, atLeast)
	}
}

// TestWithoutVersionsAPruneDeletesWhatRanOut: this server refuses to delete what is locked.
func TestWithoutVersionsAPruneDeletesWhatRanOut(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{}))
	r := b.repo
	old, _ := backup(t, r, pieces(26, 20))
	_, ids := backup(t, r, pieces(27, 20))
	prune(t, r, after(0))
	must(t, r.ForgetLast(t.Context(), old))
	prune(t, r, after(13))
	run, err := r.newestRun(t.Context())
	must(t, err)
	report := prune(t, r, after(14))
	if report.Swept.Packs == 0 || len(report.Locked) > 0 || len(report.Waiting) == 0 {
		t.Fatalf("%+v", report)
	}
	for _, key := range run.Condemned {
		if !slices.Contains(report.Waiting, key) || !slices.Contains(list(t, b.store, packsPrefix), key) {
			t.Errorf("%s was deleted, or nobody was told that it was not: %v", key, report.Waiting)
		}
	}
	time.Sleep(putLock + time.Second)
	for range 2 { // condemned once more, and deleted
		report = prune(t, r, after(15))
	}
	for _, key := range list(t, b.store, packsPrefix) {
		if slices.Contains(run.Condemned, key) {
			t.Errorf("%s is still there: %+v", key, report)
		}
	}
	check(t, r, ids, pieces(27, 20))
}

func TestARefusedExtensionIsReportedAndTriedAgain(t *testing.T) {
	server := s3test.New(t, s3test.Options{Versions: true})
	b := newLockedBucket(t, server)
	backup(t, b.repo, pieces(22, 10))
	account := server.Account()
	server.Policy(b.bucket, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":[%[1]q]},"Action":["s3:GetObject","s3:PutObject","s3:DeleteObject"],"Resource":"arn:aws:s3:::%[2]s/*"},
		{"Effect":"Allow","Principal":{"AWS":[%[1]q]},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::%[2]s"}]}`, account.AccessKey, b.bucket))
	r, err := Open(t.Context(), server.Store(b.bucket, "p", account), b.id)
	must(t, err)
	report := prune(t, r, after(20))
	if l := report.Locks; l.Extended != 0 || l.Refused < 5 || !errors.Is(l.Err, storage.ErrDenied) {
		t.Errorf("%+v", l)
	}
	if report = prune(t, b.repo, after(20)); report.Locks.Extended < 5 || report.Locks.Refused != 0 || report.Run != 2 {
		t.Errorf("%+v", report)
	}
}

// TestWhatComesBackIsLockedLikeTheRest: what was condemned when the others' locks were extended is needed after all.
func TestWhatComesBackIsLockedLikeTheRest(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	sid, ids := backup(t, b.repo, pieces(23, 20))
	prune(t, b.repo, after(0))
	must(t, b.repo.ForgetLast(t.Context(), sid))
	pinned := false
	r, err := Open(t.Context(), fault.New(b.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) && !pinned {
			pinned = true
			must(t, b.repo.Pin(t.Context(), sid)) // which the run has not seen
		}
		return fault.Action{}
	}), b.id)
	must(t, err)
	if report := prune(t, r, after(13)); len(report.Expired) != 1 || report.Locks.Extended == 0 {
		t.Fatalf("%+v", report)
	}
	run, err := r.newestRun(t.Context())
	must(t, err)
	report := prune(t, r, after(14))
	if report.Rescued.Packs == 0 || report.Locks.Extended != report.Rescued.Packs+1 || !report.Locks.Until.Equal(run.LockedUntil) {
		t.Errorf("%+v", report)
	}
	for key, until := range b.locks() {
		if (strings.HasPrefix(key, packsPrefix) || strings.HasPrefix(key, snapshotsPrefix)) && until.Before(run.LockedUntil) {
			t.Errorf("%s is locked until %s, not %s", key, until, run.LockedUntil)
		}
	}
	check(t, b.repo, ids, pieces(23, 20))
}

// TestWhatDamageKeepsCondemnedIsLockedIfASnapshotNeedsIt: a snapshot comes back whose packs the last run condemned, and another is damaged.
func TestWhatDamageKeepsCondemnedIsLockedIfASnapshotNeedsIt(t *testing.T) {
	server := s3test.New(t, s3test.Options{Versions: true})
	for when, hours := range map[string][2]int{"all is locked for longer": {0, 20}, "all else was": {13, 14}} {
		b := newLockedBucket(t, server)
		back, _ := backup(t, b.repo, pieces(71, 20))
		broken, _ := backup(t, b.repo, pieces(72, 20))
		prune(t, b.repo, after(0))
		must(t, b.repo.Forget(t.Context(), back))
		prune(t, b.repo, after(hours[0]))
		must(t, b.repo.PinExpired(t.Context(), back))
		must(t, b.store.Delete(t.Context(), packsOf(t, b.store, broken)[0]))
		report := prune(t, b.repo, after(hours[1]))
		if len(report.Damage) == 0 || report.Valid != 2 {
			t.Fatalf("%s: %+v", when, report)
		}
		run, err := b.repo.newestRun(t.Context())
		must(t, err)
		locks := b.locks()
		for _, key := range packsOf(t, b.store, back) {
			if !slices.Contains(run.Condemned, key) || run.LockedUntil.IsZero() || locks[key].Before(run.LockedUntil) {
				t.Errorf("%s: %s is locked until %s, and not %s", when, key, locks[key], run.LockedUntil)
			}
		}
	}
}

func TestTheWALThatASnapshotNeedsStaysLocked(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	wal := func(sid string) string { return "wal/main/1/00000001/" + sid }
	options := func(hours int) PruneOptions {
		o := after(hours)
		o.Archived = func(c Commit) []string { return []string{wal(c.ID), wal("absent"), wal(c.ID)} }
		return o
	}
	first, _ := backup(t, b.repo, pieces(28, 10))
	must(t, b.store.Put(t.Context(), wal(first), nil))
	must(t, b.store.Put(t.Context(), wal("other"), nil))
	before := b.locks()
	report := prune(t, b.repo, options(13))
	until := report.Locks.Until
	if locks := b.locks(); locks[wal(first)].Before(until) || !locks[wal("other")].Equal(before[wal("other")]) {
		t.Errorf("%+v: %s", report.Locks, locks)
	}
	second, _ := backup(t, b.repo, pieces(29, 10)) // its WAL came first, and was not locked by the run before
	must(t, b.store.Put(t.Context(), wal(second), nil))
	report = prune(t, b.repo, options(14))
	if n := report.Locks.Extended; n != 1 || !report.Locks.Until.Equal(until) || b.locks()[wal(second)].Before(until) {
		t.Errorf("%+v: %s", report.Locks, b.locks())
	}
	if report = prune(t, b.repo, options(15)); report.Locks.Extended != 0 {
		t.Errorf("%+v", report.Locks)
	}
}

func TestARunThatCannotExtendForAnOutageIsNotPublished(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	backup(t, b.repo, pieces(24, 10))
	for n := 1; ; n++ {
		calls := atomic.Int32{}
		r, err := Open(t.Context(), fault.New(b.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Lock && int(calls.Add(1)) == n {
				return []fault.Action{{Before: storage.ErrUnreachable}, {After: storage.ErrUnreachable}}[n%2]
			}
			return fault.Action{}
		}), b.id)
		must(t, err)
		_, err = r.Prune(t.Context(), after(20))
		if int(calls.Load()) < n {
			must(t, err)
			break
		}
		if !errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("call %d failed and the run said %v", n, err)
		}
		if n := list(t, b.store, gcPrefix); len(n) > 0 {
			t.Errorf("published: %v", n)
		}
	}
	if run, err := b.repo.newestRun(t.Context()); err != nil || run.LockedUntil.IsZero() {
		t.Errorf("%+v, %v", run, err)
	}
}

// TestACopyWhereNothingIsLockedIsPrunedWithoutAWord: the config of a bucket's repository asks for what no directory can do.
func TestACopyWhereNothingIsLockedIsPrunedWithoutAWord(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	r.config.Params.ObjectLockDays, r.config.Created = 1, time.Time{}
	backup(t, r, pieces(25, 10))
	if report := prune(t, r, pruning()); !reflect.DeepEqual(report.Locks, LockReport{}) {
		t.Errorf("%+v", report.Locks)
	}
	if run, err := r.newestRun(t.Context()); err != nil || run.Number != 1 || !run.LockedUntil.IsZero() {
		t.Errorf("%+v, %v", run, err)
	}
}

// TestLocksAreExtendedWhenAThirdOfTheirTimeIsOver: so that a nightly prune may fail for some nights.
func TestLocksAreExtendedWhenAThirdOfTheirTimeIsOver(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	backup(t, b.repo, pieces(30, 4))
	for _, c := range []struct {
		hours   int
		extends bool
	}{{7, false}, {9, true}, {16, false}, {18, true}} {
		if n := prune(t, b.repo, after(c.hours)).Locks.Extended; (n > 0) != c.extends {
			t.Errorf("after %d hours of 24: %d objects", c.hours, n)
		}
	}
}

// TestALockThatCannotBeIsNotBelieved: a host with a clock that is years ahead, or a thief, wrote until when all is locked.
func TestALockThatCannotBeIsNotBelieved(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	backup(t, b.repo, pieces(31, 4))
	prune(t, b.repo, after(24*365))
	if run, err := b.repo.newestRun(t.Context()); err != nil || time.Until(run.LockedUntil) < 24*365*time.Hour {
		t.Fatalf("%+v, %v", run, err)
	}
	start := time.Now()
	if l := prune(t, b.repo, after(0)).Locks; l.Extended < 5 || l.Until.Before(start.Add(24*time.Hour-time.Second)) || l.Until.After(time.Now().Add(24*time.Hour)) {
		t.Errorf("%+v", l)
	}
	if l := prune(t, b.repo, after(1)).Locks; l.Extended != 0 {
		t.Errorf("%+v", l)
	}
	b.repo.config.Created = time.Now().Add(time.Hour) // by such a clock too
	p := pruner{Repo: b.repo, last: &gcRun{}, start: time.Now()}
	if until, due := p.lockedUntil(); !until.IsZero() || !due {
		t.Errorf("locked until %s, extend: %v", until, due)
	}
}

// TestWhatIsGoneWhenItIsToBeLockedIsTold: it was in the listings, and somebody deletes it before its lock is extended.
func TestWhatIsGoneWhenItIsToBeLockedIsTold(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	sid, _ := backup(t, b.repo, pieces(32, 4))
	must(t, b.repo.Pin(t.Context(), sid))
	pack := list(t, b.store, packsPrefix)[0]
	without := func(gone string) *Repo {
		r, err := Open(t.Context(), fault.New(b.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Lock && op.Key == gone {
				return fault.Action{Before: storage.ErrNotExist}
			}
			return fault.Action{}
		}), b.id)
		must(t, err)
		return r
	}
	if l := prune(t, without(pinsPrefix+sid), after(9)).Locks; l.Missing != nil || l.Until.Before(time.Now().Add(32*time.Hour)) {
		t.Errorf("without a pin: %+v", l)
	}
	before := prune(t, b.repo, after(10)).Locks.Until
	if l := prune(t, without(pack), after(20)).Locks; !slices.Equal(l.Missing, []string{pack}) || l.Extended < 5 || !l.Until.Equal(before) {
		t.Errorf("without a pack: %+v", l)
	}
	if run, err := b.repo.newestRun(t.Context()); err != nil || !run.LockedUntil.IsZero() {
		t.Errorf("%+v, %v", run, err)
	}
}
