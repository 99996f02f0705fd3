package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walreceiver"
	"github.com/pgtrove/pgtrove/walsource"
)

// receiveOptions are the flags of wal receive.
type receiveOptions struct {
	slot, application string
	drop, synchronous bool
	interval, report  time.Duration
}

func newWALReceiveCommand(a *app) *cobra.Command {
	o := &receiveOptions{}
	c := &cobra.Command{
		Use:   "receive",
		Short: "Stream WAL over replication into the repository, to the second",
		Long: `Stream WAL from the server into the repository until it is stopped: what was written a few seconds ago is there, before its
segment is finished, and a restore uses it. It runs on any host, and connects as any PostgreSQL client does; the role needs
REPLICATION, and pg_hba.conf an entry for it. It goes on through restarts of the server, promotions and outages of the storage.

The server keeps WAL for it in a replication slot, which is made if it is not there. Remove the slot with --drop-slot when
you give receiving up: as long as it is there the server keeps all WAL that was not received, until its disk is full.
` + "`pgtrove check`" + ` watches it.

Where it is a synchronous standby (synchronous_standby_names has its application_name) each part is stored as soon as the one
before is durable, and the server confirms a commit only when it is in the repository.

SIGTERM and SIGINT end it: what was received is stored, and the exit code is 0.`,
		Args: exactly(),
	}
	f := c.Flags()
	f.StringVar(&o.slot, "slot", pgsource.ReceiverSlot, "`name` of the replication slot")
	f.BoolVar(&o.drop, "drop-slot", false, "remove the slot, and end")
	f.DurationVar(&o.interval, "interval", 5*time.Second, "store what was received after this `time`")
	f.BoolVar(&o.synchronous, "synchronous", false, "store what was received at once, always")
	f.StringVar(&o.application, "application-name", "", "`name` for the server, as in synchronous_standby_names (default: the slot's)")
	f.DurationVar(&o.report, "report", time.Minute, "say how far it is after each such `time`")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		if err := o.validate(); err != nil {
			return err
		}
		if o.drop {
			return a.dropSlot(ctx, o)
		}
		return a.walReceive(ctx, o)
	})
	return c
}

func (o *receiveOptions) validate() error {
	wrong := func(format string, args ...any) error {
		return usageError{err: fmt.Errorf(format, args...), command: "pgtrove wal receive"}
	}
	switch {
	case !regexp.MustCompile(`^[a-z0-9_]{1,63}$`).MatchString(o.slot):
		return wrong("--slot %q: give a name of lower-case letters, digits and underscores", o.slot)
	case o.interval < 100*time.Millisecond || o.interval > time.Hour:
		return wrong("--interval %s: give a time from 100ms to 1h", o.interval)
	case o.report < time.Second:
		return wrong("--report %s: give a second or more", o.report)
	}
	if o.application == "" {
		o.application = o.slot
	}
	return nil
}

// dropSlot is --drop-slot. It needs no repository.
func (a *app) dropSlot(ctx context.Context, o *receiveOptions) error {
	conn, _, err := pgsource.Dial(ctx, a.settings.DSN, o.application)
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := walreceiver.DropSlot(ctx, conn, o.slot); err != nil {
		return err
	}
	a.out.info("slot %s is removed: the server keeps no WAL for it any more", o.slot)
	return nil
}

// walReceiver is one run of wal receive.
type walReceiver struct {
	*app
	*receiveOptions
	repo    *repo.Repo
	objects *standingObjects // of repo
}

func (a *app) walReceive(ctx context.Context, o *receiveOptions) error {
	a.settings.Storage.retryByDefault(serverRetryTime) // it tries again by itself
	name, err := a.repositoryName()
	if err != nil {
		return err
	}
	store, _, err := a.openStorage(ctx, name)
	if err != nil {
		return fmt.Errorf("open repository %s: %w", name, err)
	}
	r, err := a.openIn(ctx, name, store)
	if err != nil {
		return err
	}
	w := &walReceiver{a, o, r, newStandingObjects(store, r)}
	err = walreceiver.Run(ctx, walreceiver.Options{
		Dial: w.dial, Open: w.open, Follow: w.follow, Lasting: lastingForReceiver,
		Slot: o.slot, Interval: o.interval, Report: o.report, Synchronous: o.synchronous, Events: w.events(),
	})
	if err != nil {
		return fmt.Errorf("receive WAL: %w", err)
	}
	a.out.info("stopped: all WAL that was received is in the repository")
	return nil
}

// dial connects with the settings that backup uses.
func (w *walReceiver) dial(ctx context.Context) (*pgx.Conn, walreceiver.Beside, error) {
	conn, beside, err := pgsource.Dial(ctx, w.settings.DSN, w.application)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the server: %w", err)
	}
	return conn, func(ctx context.Context, replication bool) (*pgx.Conn, error) {
		if !replication {
			return beside(ctx, nil)
		}
		stream, err := beside(ctx, map[string]string{"replication": "yes"})
		if errors.Is(err, pgsource.ErrRejected) {
			err = withHint(err, "the role needs REPLICATION (as a superuser: ALTER ROLE %s REPLICATION), and pg_hba.conf an entry for the database \"replication\"",
				pgx.Identifier{conn.Config().User}.Sanitize())
		}
		if err != nil {
			return nil, fmt.Errorf("connect to the server: %w", err)
		}
		return stream, nil
	}, nil
}

// open makes sure that the cluster is the one that the name means in the repository, and tells those who fetch WAL that there will be parts.
func (w *walReceiver) open(ctx context.Context, s walreceiver.Server) (*walreceiver.Opened, error) {
	ours := archiveKey{w.settings.clusterName(), s.System}
	theirs, err := systemOf(ctx, w.repo, ours)
	if err != nil {
		return nil, err
	}
	if theirs != (archiveKey{}) && theirs != ours {
		return nil, withHint(refused("receive WAL of cluster %s: in the repository this name has system identifier %s, the server has %s", ours.cluster, theirs.system, ours.system),
			"if this is another cluster, give it a name of its own with --cluster NAME; if the cluster was replaced or upgraded, say so once with `pgtrove backup --new-system-id`")
	}
	archive := walarchive.Archive{Objects: w.objects, Cluster: ours.cluster, System: ours.system}
	fresh, err := archive.AnnounceReceiver(ctx)
	if err != nil {
		return nil, err
	}
	if fresh {
		w.out.info("receiving is new for this cluster: for a minute only whole segments are confirmed to the server")
	}
	return &walreceiver.Opened{Archive: archive, Fresh: fresh, Complete: func(ctx context.Context, segment string) (bool, error) {
		return w.complete(ctx, archive, s, segment)
	}}, nil
}

// complete stores a segment as a whole if all of it is there in parts, and only so.
func (w *walReceiver) complete(ctx context.Context, archive walarchive.Archive, s walreceiver.Server, segment string) (bool, error) {
	_, err := archive.Header(ctx, segment)
	if !errors.Is(err, walarchive.ErrNotExist) {
		return false, err
	}
	h, content, err := archive.FetchParts(ctx, segment, nil)
	if errors.Is(err, walarchive.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if h.Kind != walarchive.PartKind || partEnd(h.Name) != int64(s.SegmentSize) {
		return false, nil
	}
	facts, err := w.judgeSegment(segment, content, expectServer(s))
	if err != nil {
		return false, err
	}
	if _, err := archive.Push(ctx, segment, content, facts); err != nil {
		return false, err
	}
	w.out.detail("%s is a whole segment now: it was there in parts", segment)
	return true, nil
}

// partEnd is the offset at which a part ends, by its name (docs/format.md, "Parts of segments").
func partEnd(name string) int64 {
	_, offsets, _ := strings.Cut(name, ".part/")
	var from, to int64
	if _, err := fmt.Sscanf(offsets, "%08x-%08x-", &from, &to); err != nil {
		return 0
	}
	return to
}

func expectServer(s walreceiver.Server) walsource.Expect {
	return walsource.Expect{SystemID: s.System, SegmentSize: s.SegmentSize, BlockSize: s.BlockSize}
}

// receivedSegment is a segment while it is received.
type receivedSegment struct {
	*walReceiver
	follower *walsource.Follower
	info     *walsource.Info
	broken   error
}

func (w *walReceiver) follow(s walreceiver.Server, segment string, data, before []byte) walreceiver.Follower {
	return &receivedSegment{walReceiver: w, follower: walsource.Follow(segment, data, expectServer(s), before)}
}

// Extend implements walreceiver.Follower. A finished segment with WAL that cannot be read is stored all the same: it is what the server has.
func (r *receivedSegment) Extend(to int) error {
	var err error
	r.info, err = r.follower.Extend(to)
	var broken *walsource.RecordError
	if errors.As(err, &broken) {
		r.broken, err = err, nil
		r.out.warn("%v; it is stored as it is, but recovery cannot go past it: take a new backup", r.broken)
	}
	return err
}

// Facts implements walreceiver.Follower.
func (r *receivedSegment) Facts() (walarchive.Facts, bool) {
	if r.info == nil {
		return walarchive.Facts{}, false
	}
	f := r.factsOf(r.info, nil)
	f.Broken = r.broken != nil
	return f, true
}

// lastingForReceiver says of an error that it does not pass by itself. That the storage refuses us may be because keys are being changed, or a file system was
// mounted wrongly: it is told, and tried again.
func lastingForReceiver(err error) bool {
	rule := classify(err)
	switch rule.code {
	case codeUsage, codeRefused, codeDamaged:
		return true
	case codeLocked:
		return rule.name != "`storage.ErrDenied`" && rule.name != "`fs.ErrPermission`"
	}
	return false
}

// receiveRules are what can end wal receive.
func receiveRules() []exitRule {
	return []exitRule{
		{name: "repository replaced", is: errReplaced, code: codeRefused,
			meaning: "another repository has taken the place of the one that `wal receive` had opened; what was not confirmed to the server is still there",
			hint:    "start `pgtrove wal receive` again with the identity of the repository that is there, and take a backup into it"},
		{name: "`walreceiver.ErrUnstored`", is: walreceiver.ErrUnstored, code: codeUnreachable,
			meaning: "`wal receive` was stopped, and the storage did not take what was received last",
			hint:    "nothing is lost as long as the server is there: its slot keeps the WAL for the next `pgtrove wal receive`"},
		{name: "`walreceiver.ErrSystem`", is: walreceiver.ErrSystem, code: codeRefused,
			meaning: "the server is not of the cluster that was received before",
			hint:    "check --dsn, PGHOST and PGPORT"},
		{name: "`walreceiver.ErrSlot`", is: walreceiver.ErrSlot, code: codeRefused,
			meaning: "the replication slot cannot be made or used",
			hint:    "the server needs wal_level = replica and a free slot (max_replication_slots); --slot gives another name"},
		{name: "`walreceiver.ErrNoSlot`", is: walreceiver.ErrNoSlot, code: codeAbsent,
			meaning: "the server has no such replication slot",
			hint:    "`SELECT slot_name FROM pg_replication_slots` lists them; --slot chooses one"},
		{name: "`walreceiver.ErrSlotInUse`", is: walreceiver.ErrSlotInUse, code: codeBusy,
			meaning: "a process uses the replication slot",
			hint:    "stop `pgtrove wal receive` first"},
	}
}
