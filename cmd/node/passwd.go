package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
)

const passwdUsage = `Write a user's password into a password file, or take a user away.

The file is made if there is none. The password is asked for twice on a terminal; otherwise it is the
first line of standard input. A node that uses the file notices within seconds.

Usage: flotilla passwd [flags] FILE USER`

// passwd edits a password file.
func (p *program) passwd(_ context.Context, args []string) error {
	fs := p.flagSet("passwd", passwdUsage)
	remove := fs.Bool("delete", false, "take the user away")
	from := fs.String("from", "", "`FILE` whose first line is the password")
	scram := fs.Bool("scram", false, "let the user authenticate by SCRAM-SHA-256 too, which never sends the password")
	rounds := fs.Int("iterations", 15_000, "of SCRAM, 4096 or more; clients compute them at each log-in")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 2 {
		return errors.New("passwd takes two arguments: the password file and the user")
	}
	file, user := fs.Arg(0), fs.Arg(1)
	line := ""
	if !*remove {
		password, err := p.password(*from)
		if err != nil {
			return err
		}
		if *scram {
			line, err = auth.HashScram(user, password, *rounds)
		} else {
			line, err = auth.HashPassword(user, password)
		}
		if err != nil {
			return err
		}
	}
	return editPasswords(file, user, line)
}

// password reads a password: from a file, from the terminal, or from standard input.
func (p *program) password(from string) ([]byte, error) {
	in := p.stdin
	if from != "" {
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	} else if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return p.askPassword(int(f.Fd()))
	}
	line, err := bufio.NewReader(in).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return checkPassword(bytes.TrimRight(line, "\r\n"))
}

func (p *program) askPassword(fd int) ([]byte, error) {
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(p.stderr, prompt)
		defer fmt.Fprintln(p.stderr)
		return term.ReadPassword(fd)
	}
	first, err := ask("Password: ")
	if err != nil {
		return nil, err
	}
	second, err := ask("Again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two passwords differ; nothing was changed")
	}
	return checkPassword(first)
}

func checkPassword(password []byte) ([]byte, error) {
	if len(password) == 0 {
		return nil, errors.New("the password is empty; nothing was changed")
	}
	if len(password) > 65535 {
		return nil, errors.New("CONNECT can carry 65535 bytes of password at most")
	}
	return password, nil
}

// editPasswords puts a user's line into a password file, or takes it away if line is "".
func editPasswords(file, user, line string) error {
	// The name may be a link to where the file is; that is the one to replace.
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	data, err := os.ReadFile(file)
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && line != "") {
		return err
	}
	if data, err = auth.SetLine(data, user, line); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := replaceFile(file, data); err != nil {
		return err
	}
	if err := auth.CheckPasswords(file, data); err != nil {
		return fmt.Errorf("%s is written, but a node would refuse it for what else is in it: %w", file, err)
	}
	return nil
}

// replaceFile replaces a file in one step: readers see the old content or the new one,
// also after a crash. Only its owner may read it; that stays who it was.
func replaceFile(file string, data []byte) (err error) {
	dir := filepath.Dir(file)
	t, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(t.Name()))
		}
	}()
	_, err = t.Write(data)
	err = errors.Join(err, keepOwner(file, t), t.Sync(), t.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(t.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // replaced; that it lasts cannot be asked for here
	}
	defer d.Close()
	return syncDir(d)
}
