package main

import (
	"errors"
	"strings"
	"testing"
)

func TestAStandbyIsToldOnlyWhatAServerCanUse(t *testing.T) {
	for name, c := range map[string]struct{ conninfo, slot, want string }{
		"nothing":                     {},
		"words":                       {conninfo: "host=db1 user=replicator"},
		"a URI":                       {conninfo: "postgresql://replicator@db1:5433/?sslmode=require", slot: "db_2"},
		"a password":                  {conninfo: "host=db1 password=hunter2", want: "holds a password"},
		"a password in a URI":         {conninfo: "postgresql://u:hunter2@db1/", want: "holds a password"},
		"no connection string":        {conninfo: "db1", want: "--primary-conninfo"},
		"a slot of nobody":            {slot: "db2", want: "without --primary-conninfo"},
		"a name that no slot has":     {conninfo: "host=db1", slot: "db-2", want: "--primary-slot"},
		"a name that is one too long": {conninfo: "host=db1", slot: strings.Repeat("x", 64), want: "63 at most"},
	} {
		err := (&standbyFlags{conninfo: c.conninfo, slot: c.slot}).check()
		var usage usageError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: %v", name, err)
		}
	}
	o := &restoreOptions{to: "x", primary: standbyFlags{conninfo: "host=db1"}}
	o.local.archiveMode = "preserve"
	if err := o.parse(); err == nil || !strings.Contains(err.Error(), "give --standby") {
		t.Errorf("without --standby: %v", err)
	}
}
