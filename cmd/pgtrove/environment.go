package main

import (
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
)

// environment is the process's surroundings. PostgreSQL runs archive_command with whatever the server was started
// with, often next to nothing, so every answer here has a way to be absent.
type environment struct {
	lookup      func(string) (string, bool)
	accountHome func() (string, error)
}

var errNoHome = errors.New("no home directory")

// get returns a variable's value; an empty one counts as absent.
func (e environment) get(name string) (string, bool) {
	v, ok := e.lookup(name)
	return v, ok && v != ""
}

// home returns $HOME or, where a server was started without it, the account's directory.
func (e environment) home() (string, error) {
	if h, ok := e.get("HOME"); ok && filepath.IsAbs(h) {
		return h, nil
	}
	h, err := e.accountHome()
	if err != nil {
		return "", fmt.Errorf("%w: HOME is not set and %w", errNoHome, err)
	}
	if !filepath.IsAbs(h) {
		return "", fmt.Errorf("%w: HOME is not set and the account has none", errNoHome)
	}
	return h, nil
}

func accountHome() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.HomeDir, nil
}

// configDir is where init puts an identity file and every command looks for one.
func (e environment) configDir() (string, error) { return e.xdg("XDG_CONFIG_HOME", ".config") }

func (e environment) cacheDir() (string, error) { return e.xdg("XDG_CACHE_HOME", ".cache") }

// xdg follows the XDG base directory rules: a relative value is ignored.
func (e environment) xdg(variable, below string) (string, error) {
	if d, ok := e.get(variable); ok && filepath.IsAbs(d) {
		return filepath.Join(d, "pgtrove"), nil
	}
	h, err := e.home()
	if err != nil {
		return "", err
	}
	return filepath.Join(h, below, "pgtrove"), nil
}

// identityName is the file name of the identity in configDir.
const identityName = "identity.txt"

func (e environment) identityFile() (string, error) {
	d, err := e.configDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(d, identityName), nil
}
