// Package program runs the image's program, and commands beside it, as a container runtime would: user, working
// directory, PATH, signals, namespaces, restarts.
package program

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Account is who a process runs as.
type Account struct {
	UID, GID int
	Groups   []int
	Home     string
}

// FindAccount resolves USER[:GROUP], each a name or a number, by the image's /etc/passwd and /etc/group (the
// caller's root is the image). As Docker has it: numbers need no entry; groups that list the user count only where
// no group is given.
func FindAccount(user string) (Account, error) {
	passwd, err := openOrNothing("/etc/passwd")
	if err != nil {
		return Account{}, err
	}
	defer passwd.Close()
	group, err := openOrNothing("/etc/group")
	if err != nil {
		return Account{}, err
	}
	defer group.Close()
	return findAccount(user, passwd, group)
}

func openOrNothing(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return file, err
}

func findAccount(user string, passwd, group io.Reader) (Account, error) {
	name, groupName, _ := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	account := Account{Home: "/", Groups: []int{}}
	number, isNumber := parseID(name)
	account.UID = number
	loginName := ""
	err := scan(passwd, 7, func(fields []string) bool {
		uid, ok := parseID(fields[2])
		gid, okToo := parseID(fields[3])
		if !ok || !okToo || (isNumber && uid != number) || (!isNumber && fields[0] != name) {
			return false
		}
		account.UID, account.GID, loginName = uid, gid, fields[0]
		if fields[5] != "" {
			account.Home = fields[5]
		}
		return true
	})
	if err != nil {
		return account, err
	}
	if loginName == "" && !isNumber {
		return account, fmt.Errorf("the image has no user %q", name)
	}
	if groupName != "" {
		return withGroup(account, groupName, group)
	}
	if loginName == "" {
		return account, nil
	}
	err = scan(group, 4, func(fields []string) bool {
		if gid, ok := parseID(fields[2]); ok && lists(fields[3], loginName) {
			account.Groups = append(account.Groups, gid)
		}
		return false
	})
	return account, err
}

func withGroup(account Account, name string, group io.Reader) (Account, error) {
	number, isNumber := parseID(name)
	isFound := isNumber
	account.GID = number
	err := scan(group, 4, func(fields []string) bool {
		gid, ok := parseID(fields[2])
		if !ok || isNumber || fields[0] != name {
			return false
		}
		account.GID, isFound = gid, true
		return true
	})
	if err == nil && !isFound {
		err = fmt.Errorf("the image has no group %q", name)
	}
	return account, err
}

func parseID(text string) (int, bool) {
	number, err := strconv.ParseUint(text, 10, 31)
	return int(number), err == nil
}

func lists(members, name string) bool {
	for _, member := range strings.Split(members, ",") {
		if member == name {
			return true
		}
	}
	return false
}

// scan calls take for every line of enough fields until that returns true.
func scan(text io.Reader, fields int, take func([]string) bool) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20) // a group of many members is one line
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		// Trailing fields that a file leaves out are empty.
		split := strings.Split(line, ":")
		if len(split) < 3 {
			continue
		}
		for len(split) < fields {
			split = append(split, "")
		}
		if take(split) {
			return nil
		}
	}
	return lines.Err()
}
