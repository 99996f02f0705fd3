package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/ini.v1"
)

// profile is one section of the files that AWS's own tools share.
type profile struct {
	name  string
	named bool // somebody asked for it: it must be there
	found bool
	// values are those of the config file, overridden by the credentials file.
	values map[string]string
	// s3 are the values of its services section for s3.
	s3 map[string]string
	// style is the addressing_style of its s3 settings.
	style string
}

func (p profile) get(key string) string { return p.values[key] }

// addressing is what the profile says of where the bucket stands.
func (p profile) addressing() Addressing {
	switch p.style {
	case "path":
		return AddressPath
	case "virtual":
		return AddressHost
	}
	return AddressAuto
}

// loadProfile reads both shared files, below home where no variable names them; neither needs to exist unless the profile was asked for by name.
func loadProfile(name, home string) (profile, error) {
	p := profile{name: first(name, os.Getenv("AWS_PROFILE"), os.Getenv("AWS_DEFAULT_PROFILE")), values: map[string]string{}}
	p.named = p.name != ""
	if p.name == "" {
		p.name = "default"
	}
	config, err := loadShared("AWS_CONFIG_FILE", home, "config")
	if err != nil {
		return p, err
	}
	section := "profile " + p.name
	if p.name == "default" && !config.HasSection(section) {
		section = p.name
	}
	p.add(config, section)
	if services := p.get("services"); services != "" {
		if s, err := config.GetSection("services " + services); err == nil && s.HasKey("s3") {
			p.s3 = nested(s.Key("s3"))
		}
	}
	secrets, err := loadShared("AWS_SHARED_CREDENTIALS_FILE", home, "credentials")
	if err != nil {
		return p, err
	}
	p.add(secrets, p.name)
	if p.named && !p.found {
		return p, fmt.Errorf("%w: there is no profile %q in the shared config and credentials files", ErrOptions, p.name)
	}
	return p, nil
}

func (p *profile) add(f *ini.File, section string) {
	s, err := f.GetSection(section)
	if err != nil {
		return
	}
	// The library has a section of that name in every file.
	p.found = p.found || len(s.Keys()) > 0 || p.name != "default"
	if s.HasKey("s3") {
		p.style = first(nested(s.Key("s3"))["addressing_style"], p.style)
	}
	for _, k := range s.Keys() {
		p.values[k.Name()] = k.String()
	}
}

// loadShared reads the file that the variable names, or the one in home/.aws; an absent one is empty, and there is none without a home. An error
// never repeats what stands in the file.
func loadShared(variable, home, name string) (*ini.File, error) {
	path := os.Getenv(variable)
	switch {
	case path == "" && home == "":
		return ini.Empty(), nil
	case path == "":
		path = filepath.Join(home, ".aws", name)
	}
	f, err := ini.LoadSources(ini.LoadOptions{AllowNestedValues: true, SkipUnrecognizableLines: false}, path)
	var where *fs.PathError
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, fs.ErrNotExist):
		return ini.Empty(), nil
	case errors.As(err, &where):
		return nil, fmt.Errorf("%w: %w", ErrOptions, where)
	}
	return nil, fmt.Errorf("%w: %s is not a file of sections and settings", ErrOptions, path)
}

// nested are the indented settings below a key.
func nested(k *ini.Key) map[string]string {
	values := map[string]string{}
	for _, line := range k.NestedValues() {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return values
}

// first is the first that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
