#compdef gantry
# Completion of gantry for zsh: source <(gantry completion zsh), or a file _gantry in a folder of $fpath.
_gantry() {
    local line value meaning
    local -a lines whole open
    lines=("${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in $lines; do
        if [[ $line == :files ]]; then
            _files
            return
        fi
        value=${line%%$'\t'*}
        meaning=
        [[ $line == *$'\t'* ]] && meaning=":${line#*$'\t'}"
        if [[ $value == *[/=,] ]]; then
            open+=("${value//:/\\:}$meaning")
        else
            whole+=("${value//:/\\:}$meaning")
        fi
    done
    (( ${#whole} )) && _describe -V gantry whole
    (( ${#open} )) && _describe -V gantry open -S ''
}
if [[ $funcstack[1] == _gantry ]]; then
    _gantry "$@"
else
    compdef _gantry gantry
fi
