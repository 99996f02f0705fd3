package restore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inSmallPlans is Run with plans of one file: a file is done before the next one is looked at.
func (c *cluster) inSmallPlans(t *testing.T, o Options) (*Report, error) {
	t.Helper()
	d, err := o.foresee(t.Context(), c.repo)
	if err != nil {
		return nil, err
	}
	l, err := d.make(&o)
	if err != nil {
		return nil, err
	}
	r := newRunner(c.repo, &o, l)
	r.limits = limits{uses: 1, files: 1, recipes: 1, bytes: 1}
	err = r.run(t.Context())
	return r.report, errors.Join(err, l.close())
}

// A cluster with files from elsewhere was restored once, and is run with those from elsewhere again: what the first restore made is
// in its data directory like any other file.
func TestFilesFromElsewhereComeBesideThoseOfAnEarlierRestore(t *testing.T) {
	c := newCluster(t)
	c.dir("config", 0o755)
	c.dir("data/"+ConfigDir, 0o700)
	c.dir("data/"+ConfigDir+"-2", 0o700)
	c.dir("data/"+ConfigDir+"-30", 0o700)
	c.files["config/pg_hba.conf"], c.links["config/pg_hba.conf"] = []byte("# now"), "/etc/postgresql/pg_hba.conf"
	c.files["data/"+ConfigDir+"/pg_hba.conf"] = []byte("# then")
	c.files["data/"+ConfigDir+"/pg_ident.conf"] = []byte("# then")
	m := c.take(t, "snap")
	dir := c.fresh(t, m)
	for n := range 2 {
		if n == 1 {
			put(t, filepath.Join(dir, ConfigDir, "more"), "extra")
			put(t, filepath.Join(dir, ConfigDir+"-3", "more"), "extra")
			o := c.options(m, dir)
			o.Delta = true
			report, err := c.inSmallPlans(t, o)
			must(t, err)
			if !slices.Contains(report.Config, Moved{"/etc/postgresql/pg_hba.conf", filepath.Join(dir, ConfigDir+"-3/pg_hba.conf")}) || report.Removed < 2 {
				t.Errorf("%+v", report)
			}
		}
		got := restored(t, dir)
		for file, want := range map[string]string{
			ConfigDir + "-3/pg_hba.conf": "# now", ConfigDir + "/pg_hba.conf": "# then", ConfigDir + "/pg_ident.conf": "# then",
			ConfigDir + "/more": "", ConfigDir + "-3/more": "",
		} {
			if got[file] != want {
				t.Errorf("%s is %q, want %q", file, got[file], want)
			}
		}
	}
}

func TestRecoverySettingsInIncludedFilesAreSetBack(t *testing.T) {
	c := newCluster(t)
	c.dir("config", 0o755)
	c.dir("config/conf.d", 0o755)
	c.dir("data/conf.d", 0o700)
	c.files["data/postgresql.conf"] = []byte("include_dir 'conf.d'\n")
	c.files["data/conf.d/a.conf"] = []byte("recovery_target = 'immediate'\n")
	c.files["config/conf.d/b.conf"] = []byte("recovery_end_command = 'rm x'\n")
	conf := restored(t, c.fresh(t, c.take(t, "snap")))["postgresql.auto.conf"]
	for _, want := range []string{"recovery_target = ''\n", "recovery_end_command = ''\n"} {
		if !strings.Contains(conf, want) {
			t.Errorf("%q is not in:\n%s", want, conf)
		}
	}
}

func TestANewFileSystemIsAnEmptyDirectory(t *testing.T) {
	top := t.TempDir()
	c, m := spaced(t, filepath.Join(top, "fast"))
	o := c.options(m, filepath.Join(top, "data"))
	for _, dir := range []string{"data", "fast"} {
		must(t, os.MkdirAll(filepath.Join(top, dir, lostFound), 0o700))
	}
	_, err := Run(t.Context(), c.repo, o)
	must(t, err)
	for _, file := range []string{"data/PG_VERSION", "data/lost+found", "fast/lost+found", "fast/" + spaceDir + "/5/1"} {
		if _, err := os.Stat(filepath.Join(top, file)); err != nil {
			t.Error(err)
		}
	}
}
