package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
)

// keyRotateOptions are the flags of key rotate.
type keyRotateOptions struct {
	data bool
	way  keyWay
}

func newKeyRotateCommand(a *app) *cobra.Command {
	o := &keyRotateOptions{}
	c := &cobra.Command{
		Use:   "rotate ID|NAME | --data",
		Short: "Give a key a new identity, or the repository new data keys",
		Long: `Two things that are done apart. Both take an owner's key.

` + "`pgtrove key rotate ID|NAME`" + ` gives one key a new identity, as ` + "`key add`" + ` makes one: it keeps its name, its role, its group and its clusters, and the
old identity opens nothing here any more. Do it when an identity is lost or may have been seen, or from time to time. Nothing that
is stored is touched. But backups build no more upon what the old key's have stored since the last prune, and store it again: where
nothing is wrong with them, run ` + "`pgtrove prune`" + ` first.

` + "`pgtrove key rotate --data`" + ` makes new keys for the data and the WAL that are written from now on, and gives them to everybody who has a key.
Nobody needs another identity. What is stored stays as it is, sealed with the old keys, which owners keep (and standbys those of the WAL): every
snapshot can still be restored. Do it after you have removed the key of an owner or a standby that may be in wrong hands: whoever
has it cannot open what is written then. Hosts use the new keys from their next command on, or within some minutes; stop and start
` + "`pgtrove wal receive`" + `. Chunks are shared with older snapshots as before, and those stay sealed with the old keys.

A key that a passphrase opens can be wrapped again only by who knows the passphrase. On a terminal each is asked for; else such keys must be rotated
to an identity, or removed, before --data.`,
		Args: between(0, "ID|NAME"),
	}
	f := c.Flags()
	f.BoolVar(&o.data, "data", false, "make new data and WAL keys for what is written from now on, instead")
	o.way.add(f)
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if err := o.validate(args); err != nil {
			return err
		}
		if o.data {
			return a.rotateData(ctx)
		}
		return a.rotateKey(ctx, args[0], o)
	})
	return c
}

func (o *keyRotateOptions) validate(args []string) error {
	const command = "pgtrove key rotate"
	switch {
	case o.data && len(args) > 0:
		return usageError{err: errors.New("--data is about all keys, and is done apart: leave the key out"), command: command}
	case o.data && len(o.way.given()) > 0:
		return usageError{err: fmt.Errorf("--data makes no new identity: leave %s out", o.way.given()[0]), command: command}
	case !o.data && len(args) == 0:
		return usageError{err: errors.New("name the key that shall get a new identity, or give --data"), command: command}
	}
	return o.way.validate(command)
}

func (a *app) rotateKey(ctx context.Context, name string, o *keyRotateOptions) error {
	r, err := a.openAsOwner(ctx, "key rotate")
	if err != nil {
		return err
	}
	all, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	old, err := findKey(all, name)
	if err != nil {
		return err
	}
	opener, err := a.opener(ctx, &o.way, old.Name, r.Root())
	if err != nil {
		return fmt.Errorf("rotate key %s: %w", old.Name, err)
	}
	k, _, err := r.RotateKey(ctx, old.ID, []repo.Recipient{opener.recipient})
	if k == nil {
		return fmt.Errorf("rotate key %s: %w", old.Name, a.undoKey(ctx, r, old.Name, old.ID, opener, err))
	}
	if err := a.showNewKey(k, opener, "made in the place of "+old.ID); err != nil {
		return err
	}
	if err := a.tellKept(err); err != nil {
		return withHint(fmt.Errorf("rotate key %s: there is a new one, but the old one could not be removed: %w", old.Name, err), "`pgtrove key remove %s`", old.ID)
	}
	if old.Current {
		a.out.info("the key that this command used is removed: use the new one from now on")
	}
	return nil
}

type rotatedJSON struct {
	Type string   `json:"type"` // "data-keys"
	Keys []string `json:"keys"` // IDs of those that have the new ones
}

func (a *app) rotateData(ctx context.Context) error {
	r, err := a.openAsOwner(ctx, "key rotate --data")
	if err != nil {
		return err
	}
	all, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	if err := a.withPassphrases(ctx, all, func(known repo.Passphrases) error { return r.RotateData(ctx, known) }); err != nil {
		return fmt.Errorf("rotate data keys: %w", err)
	}
	j := rotatedJSON{"data-keys", []string{}}
	for _, k := range all {
		j.Keys = append(j.Keys, k.ID)
	}
	if a.settings.JSON {
		return a.out.object(j)
	}
	return a.out.print(`new data and WAL keys made, and given to %s
What is written from now on is sealed with them; what is stored already is not touched, and owners open it as before.
Hosts take them with their next command, `+"`wal push` and `wal fetch`"+` within some minutes. Start `+"`pgtrove wal receive`"+` anew where it runs.
`, showCount(int64(len(all)), "key", "keys"))
}

// withPassphrases runs do, which wraps keys again, with the passphrases that it turns out to need: the one in use, and on a terminal others too. do changes nothing
// as long as it lacks one.
func (a *app) withPassphrases(ctx context.Context, all []repo.Key, do func(repo.Passphrases) error) error {
	err := do(nil)
	var lacks *repo.PassphraseError
	if !errors.As(err, &lacks) {
		return err
	}
	known := repo.Passphrases{}
	for i, id := range lacks.IDs {
		var pass secret
		switch inUse := slices.ContainsFunc(all, func(k repo.Key) bool { return k.ID == id && k.Current }); {
		case inUse && a.settings.Password != "":
			pass = a.settings.Password
		case a.canAsk():
			var askErr error
			if pass, askErr = a.ask(ctx, fmt.Sprintf("passphrase of the key %s (%s), to wrap it again: ", lacks.Names[i], id)); askErr != nil {
				return askErr
			}
		default:
			return err
		}
		recipient, identity, passErr := keys.Passphrase(string(pass))
		if passErr != nil {
			return passErr
		}
		known[id] = repo.Passphrase{Recipient: recipient, Identity: identity}
	}
	return do(known)
}
