export const addonPath = () => { throw new Error('not yet') }
export const conformancePath = () => { throw new Error('not yet') }
