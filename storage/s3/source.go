package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgtrove/pgtrove/storage"
)

const (
	// metadataTimeout is how long the services of a machine or a container may take; they are next door.
	metadataTimeout = 5 * time.Second
	// stsTimeout is how long the service that changes tokens into keys may take.
	stsTimeout = 30 * time.Second
	// processTimeout is how long a credential_process may take.
	processTimeout = time.Minute
	// renewPause is how long nobody asks for new keys after that failed, as long as the old ones hold.
	renewPause = 30 * time.Second
	// guessTries is how often a service that nobody configured must be silent until it counts as one that is not there. A machine of a cloud whose
	// service does not answer once looks the same.
	guessTries = 3
)

// source gives keys, and renews them. It says which of the places for keys it is, and never gives none: without keys minio-go would go on as an
// anonymous caller. Keys that hold are used to their end when their renewal, which begins when a fifth of their time is left, fails. Its methods are called by one
// goroutine at a time.
type source struct {
	provider credentials.Provider
	name     string
	client   *http.Client // of the service that gives them; nil: there is none
	// guess: nobody configured it, and most machines do not have it.
	guess  bool
	silent int // how often it did not answer, where that is a guess

	last  credentials.Value
	again time.Time // no renewal before
}

// credentialError is a failure to get keys, as opposed to one of their use.
type credentialError struct {
	name string
	err  error
	mend bool // waiting may mend it
}

func (e *credentialError) Error() string {
	return "no credentials from " + e.name + ": " + e.err.Error()
}
func (e *credentialError) Unwrap() error { return e.err }

// class: the service that gives keys may be down, or may refuse them.
func (e *credentialError) class() error {
	if e.mend {
		return storage.ErrUnreachable
	}
	return storage.ErrDenied
}

// mends says whether waiting may mend a failure to get keys.
func (s *source) mends(err error) bool {
	var answer credentials.ErrorResponse
	var ended *exec.ExitError
	switch {
	case errors.As(err, &answer):
		return isPassing(answer.STSError.Code) || isNoIdentityProvider(answer)
	case errors.Is(err, errBusy):
		return true
	case s.last.AccessKeyID != "": // so that it is there, and has worked
		return isNetwork(err) || errors.As(err, &ended)
	case s.guess && isNetwork(err):
		s.silent++
		return s.silent < guessTries
	}
	return isNetwork(err)
}

// isNoIdentityProvider says whether STS could not ask the provider of a web identity if the token is right.
func isNoIdentityProvider(r credentials.ErrorResponse) bool {
	switch r.STSError.Code {
	case "IDPCommunicationError":
		return true
	case "InvalidIdentityToken": // which is also its word for a wrong token
		return strings.HasPrefix(r.STSError.Message, "Couldn't retrieve verification key")
	}
	return false
}

var errNoKeys = errors.New("a key and its secret are not both there")

// RetrieveWithCredContext implements credentials.Provider.
func (s *source) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	mine := &credentials.CredContext{Client: s.client}
	if cc != nil {
		mine.Context = cc.Context
	}
	v, err := s.provider.RetrieveWithCredContext(mine)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errNoKeys
	}
	if err != nil {
		if now := time.Now(); now.Before(s.last.Expiration) {
			s.again = now.Add(min(renewPause, s.last.Expiration.Sub(now)))
			return s.last, nil
		}
		return credentials.Value{}, &credentialError{name: s.name, err: err, mend: s.mends(err)}
	}
	v.SignerType = credentials.SignatureV4
	s.last, s.again = v, time.Time{}
	return v, nil
}

// Retrieve implements credentials.Provider.
func (s *source) Retrieve() (credentials.Value, error) { return s.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (s *source) IsExpired() bool {
	return !time.Now().Before(s.again) && s.provider.IsExpired()
}

// service is a client of a service that gives keys.
func service(t http.RoundTripper, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: answering{t}}
}

// errBusy: a service is there, and does not work now.
var errBusy = errors.New("it does not work at present")

// answering makes an error of the network of an answer that says that the service does not work now, and words for a refusal without any: the library
// tells neither apart.
type answering struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (a answering) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.next.RoundTrip(req)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %s", errBusy, resp.Status)
	case resp.StatusCode >= 400 && resp.ContentLength == 0:
		resp.Body.Close()
		resp.Body = io.NopCloser(strings.NewReader("<Error><Code>" + strconv.Itoa(resp.StatusCode) + "</Code></Error>"))
	}
	return resp, nil
}

// process is a program that prints keys, by the rules of AWS's credential_process: a command line for the shell. The library has one too, which splits
// the line at spaces, wants an argument, and runs the program for each request if the keys have no end.
type process struct {
	credentials.Expiry
	command string
	lasting bool // the keys have no end
}

var errProcess = errors.New("the program did not print keys in the form of credential_process, version 1")

// RetrieveWithCredContext implements credentials.Provider.
func (p *process) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	ctx, cancel := context.WithTimeout(ctx, processTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", p.command)
	c.WaitDelay = time.Second
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil && ctx.Err() != nil {
		return credentials.Value{}, fmt.Errorf("the program does not end: %w", ctx.Err())
	}
	if err != nil {
		text := strings.Join(strings.Fields(said.String()), " ")
		return credentials.Value{}, fmt.Errorf("%w: %s", err, strings.ToValidUTF8(text[:min(len(text), maxMessage)], ""))
	}
	var keys struct {
		Version                                   int
		AccessKeyID                               string `json:"AccessKeyId"`
		SecretAccessKey, SessionToken, Expiration string
	}
	if json.Unmarshal(out, &keys) != nil || keys.Version != 1 {
		return credentials.Value{}, errProcess // and not what it printed
	}
	v := credentials.Value{AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey, SessionToken: keys.SessionToken}
	p.lasting = keys.Expiration == ""
	if !p.lasting {
		if v.Expiration, err = time.Parse(time.RFC3339, keys.Expiration); err != nil {
			return credentials.Value{}, errProcess
		}
		p.SetExpiration(v.Expiration, credentials.DefaultExpiryWindow)
	}
	return v, nil
}

// Retrieve implements credentials.Provider.
func (p *process) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (p *process) IsExpired() bool { return !p.lasting && p.Expiry.IsExpired() }
