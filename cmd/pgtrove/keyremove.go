package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
)

func newKeyRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID|NAME",
		Short: "Remove a key",
		Long: `Remove a key, named by its name, its ID or the beginning of that: from now on it opens nothing here. It takes an owner's key, and another
one than that to be removed, which shows that there is one that works. The last owner is not removed: nobody could ever open the backups.

The snapshots that the key has made until now count as before. What it signs from now on, with an old copy of the repository, is refused.
Other hosts' backups build no more upon what the key's have stored since the last prune.

No removal takes back what somebody has: who kept a copy of the repository from before, or only of keys/ in it, opens that with the old key,
and what the old key could open then it can open of later copies too, since the data keys are the same. To end that, run
` + "`pgtrove key rotate --data`" + ` after it: what is written then is sealed with new ones. Take away the host's storage credentials as well.`,
		Args: exactly("ID|NAME"),
		RunE: a.run(func(ctx context.Context, args []string) error { return a.keyRemove(ctx, args[0]) }),
	}
}

type keyRemovedJSON struct {
	Type      string    `json:"type"` // "key-removed"
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      keys.Role `json:"role"`
	Snapshots int       `json:"snapshots"` // that it made, and that count as before
}

func (a *app) keyRemove(ctx context.Context, name string) error {
	r, err := a.openAsOwner(ctx, "key remove")
	if err != nil {
		return err
	}
	all, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	k, err := findKey(all, name)
	if err != nil {
		return err
	}
	accepted, err := r.RemoveKey(ctx, k.ID)
	if err = a.tellKept(err); err != nil {
		return fmt.Errorf("remove key %s: %w", k.Name, err)
	}
	if a.settings.JSON {
		return a.out.object(keyRemovedJSON{"key-removed", k.ID, k.Name, k.Role, accepted})
	}
	text := fmt.Sprintf("key %s removed: %s\n", k.ID, describeKey(k))
	if accepted > 0 {
		text += fmt.Sprintf("%s, and count as before\n", showCount(int64(accepted), "snapshot was made with it", "snapshots were made with it"))
	}
	return a.out.print("%s%s", text, whatRemains(k))
}

// whatRemains says what the holder of a removed key can still do.
func whatRemains(k repo.Key) string {
	const credentials = "Take away the storage credentials of whoever had it.\n"
	switch k.Role {
	case keys.Owner:
		return `Whoever has it and a copy of the repository from before opens everything in that, and in later copies too as long as the data keys are the
same: run ` + "`pgtrove key rotate --data`" + ` next. It also holds the secret that certifies keys: if it was stolen, and its thief can write to the
storage, make a new repository.
` + credentials
	case keys.Standby:
		return `Whoever has it and a copy of the repository from before opens the WAL in that, and in later copies too as long as the WAL keys are the same:
run ` + "`pgtrove key rotate --data`" + ` next, if it may have fallen into wrong hands.
` + credentials
	}
	return `Whoever has it and a copy of the repository opens no backup and no WAL, as before; but names, sizes and times, which it could always list.
` + credentials
}

// tellKept warns of a removed key whose bundle the storage keeps, which is no failure: that it is removed is written.
func (a *app) tellKept(err error) error {
	if !errors.Is(err, repo.ErrKept) {
		return err
	}
	a.out.warn("%v. Its identity goes on to open what it opened until now; nothing that it signs counts. An account that may delete under keys/ finishes this with the same command", err)
	return nil
}
