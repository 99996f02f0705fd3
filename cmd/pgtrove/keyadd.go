package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
)

// keyAddOptions are the flags of key add.
type keyAddOptions struct {
	role, name, group string
	clusters          []string
	way               keyWay
}

func newKeyAddCommand(a *app) *cobra.Command {
	o := &keyAddOptions{}
	c := &cobra.Command{
		Use:   "add --role ROLE",
		Short: "Make a key for a host or a person",
		Long: `Make a key for a host or a person. It takes an owner's key, so run it where that is, best not on a database host.

  --role owner    opens everything, and makes other keys
  --role writer   for a host that backs up and archives: it opens no backup and no WAL
  --role standby  for a host whose restore_command fetches WAL: a writer that opens WAL

Unless a recipient, an SSH key or a passphrase is given, a new identity is made, in a file that you bring to the host. With
--recipient or --ssh-key no secret is made here: its holder has the other half already, and nobody else ever sees it.

--name is the name that the host calls itself (hostname): a snapshot that says that it comes from the host of another key is refused.
A writer and a standby write to the clusters of --clusters only (default: that of --cluster); an owner to all.

Hosts of one group share what they store, so that equal pages are stored once; and each could tell what the others store, and could
store something false in their place. Hosts that must not trust each other get groups of their own (--group), which share nothing.`,
		Args: exactly(),
	}
	f := c.Flags()
	f.StringVar(&o.role, "role", "", "`role`: owner, standby or writer")
	f.StringVar(&o.name, "name", "", "`name` of the host or person (default: the role)")
	f.StringVar(&o.group, "group", mainGroup, "`name` of the group of hosts that it shares chunks with; a new one is made")
	f.StringSliceVar(&o.clusters, "clusters", nil, "`names` of the clusters that it may write to, with commas; '*': all (default: that of --cluster, for an owner all)")
	o.way.add(f)
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		if err := o.validate(a.settings.clusterName()); err != nil {
			return err
		}
		return a.keyAdd(ctx, o)
	})
	return c
}

func (o *keyAddOptions) validate(cluster string) error {
	wrong := func(format string, args ...any) error {
		return usageError{err: fmt.Errorf(format, args...), command: "pgtrove key add"}
	}
	if err := o.way.validate("pgtrove key add"); err != nil {
		return err
	}
	role := keys.Role(o.role)
	switch {
	case o.role == "":
		return wrong("--role is missing: give owner, standby or writer")
	case !role.Valid():
		return wrong("--role %q: give owner, standby or writer", o.role)
	}
	if len(o.clusters) == 0 {
		o.clusters = []string{cluster}
		if role == keys.Owner {
			o.clusters = []string{keys.AnyCluster}
		}
	}
	if err := checkClusters(o.clusters); err != nil {
		return wrong("--clusters: %w", err)
	}
	if role == keys.Owner && (groupNamed(o.group) != "" || !slices.Equal(o.clusters, []string{keys.AnyCluster})) {
		return wrong("an owner opens everything: --group and --clusters are for writers and standbys")
	}
	for _, name := range []struct{ flag, text string }{{"--name", o.name}, {"--group", o.group}} {
		if name.text != "" && checkClusterName(name.text) != nil {
			return wrong("%s %q: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit", name.flag, name.text)
		}
	}
	return nil
}

// checkClusters checks names of clusters of which * alone means all.
func checkClusters(names []string) error {
	for _, name := range names {
		switch {
		case name == keys.AnyCluster && len(names) == 1:
		case name == keys.AnyCluster:
			return fmt.Errorf("'*' means all, and stands alone")
		default:
			if err := checkClusterName(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) keyAdd(ctx context.Context, o *keyAddOptions) error {
	r, err := a.openAsOwner(ctx, "key add")
	if err != nil {
		return err
	}
	all, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	if o.name == "" {
		o.name = freeName(all, o.role)
	}
	if k := slices.IndexFunc(all, func(k repo.Key) bool { return k.Name == o.name }); k >= 0 { // before there is a file of it
		return withHint(refused("add key %s: there is one of this name already: %s", o.name, describeKey(all[k])),
			"`pgtrove key rotate %s` makes a new identity for it; or give another --name", o.name)
	}
	opener, err := a.opener(ctx, &o.way, o.name, r.Root())
	if err != nil {
		return fmt.Errorf("add key %s: %w", o.name, err)
	}
	var k *repo.Key
	err = a.withPassphrases(ctx, all, func(known repo.Passphrases) (err error) { // a new group is given to all owners
		k, err = r.AddKey(ctx, repo.NewKey{
			Name: o.name, Role: keys.Role(o.role), Group: groupNamed(o.group), Clusters: o.clusters, Recipients: []repo.Recipient{opener.recipient}, Passphrases: known,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("add key %s: %w", o.name, a.undoKey(ctx, r, o.name, "", opener, err))
	}
	return a.showNewKey(k, opener, "added")
}

// undoKey takes away the identity that was made for the key name, unless the key may be there all the same, under another ID than old.
func (a *app) undoKey(ctx context.Context, r *repo.Repo, name, old string, opener newOpener, err error) error {
	all, listErr := r.Keys(context.WithoutCancel(ctx))
	there := slices.ContainsFunc(all, func(k repo.Key) bool { return k.Name == name && k.ID != old })
	if listErr == nil && !there {
		opener.undo()
		return err
	}
	if opener.file == "" {
		return withHint(err, "it may have been made all the same: `pgtrove key list` tells")
	}
	return withHint(err, "it may have been made all the same: `pgtrove key list` tells. Its identity is in %s, which was kept", opener.file)
}

// freeName is the role, or the role and a number, whichever no key has.
func freeName(all []repo.Key, role string) string {
	for n := 1; ; n++ {
		name := role
		if n > 1 {
			name = fmt.Sprintf("%s-%d", role, n)
		}
		if !slices.ContainsFunc(all, func(k repo.Key) bool { return k.Name == name }) {
			return name
		}
	}
}

// showNewKey says what there is now, and what to do with it.
func (a *app) showNewKey(k *repo.Key, opener newOpener, done string) error {
	if a.settings.JSON {
		j := keyResult(*k)
		j.KeyFile = opener.file
		return a.out.object(j)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "key %s %s: %s\n", k.ID, done, describeKey(*k))
	switch {
	case opener.file != "" && k.Role == keys.Owner:
		fmt.Fprintf(&b, "identity file: %s\nWhoever has it can read all backups and change the keys. Keep it away from database hosts, and a copy elsewhere (`pgtrove key export --paper`).\n", opener.file)
	case opener.file != "":
		fmt.Fprintf(&b, `identity file: %s
Bring it to its host, to where --key-file or key-file in its configuration points, readable to the account of PostgreSQL only, for example
  scp %s HOST:
and remove it here. If it is lost, nothing is: make another with `+"`pgtrove key rotate %s`.\n", opener.file, shellQuote(opener.file), k.Name)
	case k.Kind == keys.KindPassphrase:
		b.WriteString("The passphrase opens it. The file with it is named by --password-file, or password-file in the configuration.\n")
	default:
		b.WriteString("Its holder opens it with the identity file of that recipient (--key-file).\n")
	}
	if note := quantumNote(k.Kind, opener.recipient.Text); note != "" {
		b.WriteString(note)
	}
	return a.out.print("%s", b.String())
}

// quantumNote says of a recipient what it does not withstand, "" if it does. text is as it was given.
func quantumNote(kind, text string) string {
	if text == "" || strings.HasPrefix(text, "age1pq1") || kind == keys.KindPassphrase {
		return ""
	}
	return fmt.Sprintf("The recipient %s is not made to withstand quantum computers: who copies the repository now might open its key one day (age1pq1... is).\n", shortened(text))
}
